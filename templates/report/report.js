"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const PAGE = 20, COLORS = 6, SHAPES = 4, MOST = 60;

  // Elements are only ever made here, and texts only ever set as text: nothing that a model wrote becomes markup.
  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  const stored = (key, value) => {
    try { return value === undefined ? localStorage.getItem(key) : localStorage.setItem(key, value); } catch { return null; }
  };

  // Light and dark.
  const root = document.documentElement, toggle = at("theme");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);
  const changed = [];
  const showTheme = () => {
    toggle.textContent = isDark() ? "Light" : "Dark";
    toggle.setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} page`);
    for (const draw of changed) draw();
  };
  const before = stored("magpie-theme");
  if (before === "light" || before === "dark") root.dataset.theme = before;
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    stored("magpie-theme", root.dataset.theme);
    showTheme();
  });
  prefersDark.addEventListener("change", showTheme);

  // Markdown, as much of it as conversations have: headings, lists, code, bold and italic. A link is its text.
  const inline = (parent, text) => {
    const parts = text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*|\*[^*\s][^*\n]*\*)/);
    for (const part of parts) {
      if (part.length > 2 && part.startsWith("`") && part.endsWith("`")) parent.append(make("code", {}, part.slice(1, -1)));
      else if (part.length > 4 && part.startsWith("**") && part.endsWith("**")) parent.append(make("strong", {}, part.slice(2, -2)));
      else if (part.length > 2 && part.startsWith("*") && part.endsWith("*")) parent.append(make("em", {}, part.slice(1, -1)));
      else if (part) parent.append(part);
    }
    return parent;
  };
  const markdown = (text) => {
    const box = make("div", { class: "text", dir: "auto" });
    const lines = text.split("\n");
    let paragraph = [], list = null;
    const flush = () => {
      if (paragraph.length) box.append(inline(make("p"), paragraph.join("\n")));
      paragraph = []; list = null;
    };
    for (let n = 0; n < lines.length; n++) {
      const line = lines[n];
      const fence = /^ {0,3}(`{3,}|~{3,})/.exec(line);
      if (fence) {
        flush();
        const code = [];
        while (++n < lines.length && !lines[n].trimStart().startsWith(fence[1])) code.push(lines[n]);
        box.append(make("pre", {}, make("code", {}, code.join("\n"))));
        continue;
      }
      const heading = /^(#{1,6})\s+(.*)/.exec(line);
      const item = /^\s*([-*+]|\d{1,4}[.)])\s+(.*)/.exec(line);
      if (heading) { flush(); box.append(inline(make("h4"), heading[2])); }
      else if (item) {
        const kind = /\d/.test(item[1]) ? "ol" : "ul";
        if (!list || list.localName !== kind) {
          flush();
          list = make(kind);
          if (kind === "ol") list.start = parseInt(item[1], 10);
          box.append(list);
        }
        list.append(inline(make("li"), item[2]));
      } else if (!line.trim()) flush();
      else if (list && /^\s/.test(line) && list.lastChild) inline(list.lastChild, "\n" + line.trim());
      else { if (list) flush(); paragraph.push(line); }
    }
    flush();
    return box;
  };

  // Rows to read.
  const status = (row) => (row.out === null ? "kept" : "out");
  const named = { status: (row) => [status(row)], reason: (row) => (row.out === null ? [] : [row.out]), "shown as": (row) => row.why };
  const columns = { ...named };
  for (const row of data.rows)
    for (const name of Object.keys(row.tags)) columns[name] ??= (other) => (name in other.tags ? [other.tags[name]].flat() : []);
  const chosen = new Map();
  const filters = at("filters"), search = at("search"), list = at("list");
  for (const [name, values] of Object.entries(columns)) {
    const counts = new Map();
    for (const row of data.rows) for (const value of values(row)) counts.set(value, (counts.get(value) ?? 0) + 1);
    // A number that nearly every row has its own of is nothing to choose by.
    if (counts.size < 1 || (counts.size > MOST && !data.tags.includes(name) && !(name in named))) continue;
    const id = `by-${name.replace(/\W/g, "-")}`;
    const select = make("select", { id }, make("option", { value: "" }, "any"));
    const order = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    for (const [value, count] of order.slice(0, MOST)) select.append(make("option", { value }, `${value} (${count})`));
    if (order.length > MOST) select.append(make("option", { value: "", disabled: "" }, `${order.length - MOST} more: search for them`));
    select.addEventListener("change", () => {
      if (select.value) chosen.set(name, select.value); else chosen.delete(name);
      first = 0;
      show();
    });
    filters.append(make("span", { class: "field" }, make("label", { for: id }, name.replaceAll("_", " ")), select));
  }
  let first = 0, found = data.rows;
  const textOf = (row) => (row.text ??= [row.id, row.out ?? "", ...Object.values(row.tags).flat(), ...row.talk.map((turn) => turn[1])].join("\n").toLowerCase());
  const pick = () => {
    const wanted = search.value.toLowerCase().trim();
    return data.rows.filter((row) =>
      (!wanted || textOf(row).includes(wanted)) && [...chosen].every(([name, value]) => columns[name](row).includes(value)));
  };
  const fill = (row, body) => {
    if (row.out !== null) body.append(make("p", {}, "Out because of: ", make("span", { class: "reason" }, row.out)));
    const tags = make("dl", { class: "tags" });
    for (const [name, value] of Object.entries(row.tags))
      tags.append(make("div", {}, make("dt", {}, name), make("dd", {}, [value].flat().join(", "))));
    body.append(tags);
    if (row.why.length) body.append(make("p", { class: "quiet" }, `Here as: ${row.why.join("; ")}`));
    for (const [role, text] of row.talk)
      body.append(make("div", { class: `turn ${/^[a-z]+$/.test(role) ? role : ""}` }, make("p", { class: "role" }, role), markdown(text)));
  };
  const item = (row) => {
    const body = make("div", { class: "body" });
    const snippet = (row.talk[0]?.[1] ?? "").replace(/\s+/g, " ").slice(0, 160);
    const details = make("details", {}, make("summary", {},
      make("span", { class: `badge ${status(row)}` }, status(row)), make("span", { class: "quiet" }, row.id), " ",
      make("bdi", {}, snippet)), body);
    details.addEventListener("toggle", () => { if (details.open && !body.hasChildNodes()) fill(row, body); });
    return make("li", {}, details);
  };
  const show = () => {
    found = pick();
    const page = found.slice(first, first + PAGE);
    list.replaceChildren(...page.map(item));
    at("found").textContent = found.length
      ? `${found.length} of ${data.rows.length} rows; ${first + 1} to ${first + page.length} are shown` : "No row is like that";
    at("back").disabled = first === 0;
    at("on").disabled = first + PAGE >= found.length;
  };
  search.addEventListener("input", () => { first = 0; show(); });
  at("back").addEventListener("click", () => { first = Math.max(0, first - PAGE); show(); });
  at("on").addEventListener("click", () => { first += PAGE; show(); });
  at("clear").addEventListener("click", () => {
    search.value = ""; chosen.clear(); first = 0;
    for (const select of filters.querySelectorAll("select")) select.value = "";
    show();
  });
  show();
  addEventListener("beforeprint", () => { for (const details of document.querySelectorAll("figure details")) details.open = true; });

  // The map.
  const map = data.map, canvas = at("map-canvas");
  if (map && canvas) {
    const pen = canvas.getContext("2d"), size = canvas.width, edge = 24;
    const color = at("map-color"), legend = at("map-legend"), hover = at("map-hover"), near = at("map-list");
    const names = Object.keys(map.tags);
    for (const name of names) color.append(make("option", { value: name }, name.replaceAll("_", " ")));
    if (!names.length) color.append(make("option", { value: "" }, "nothing"));
    const layers = [{ name: "this set", ...map, on: true }, ...map.others.map((other) => ({ ...other, on: true }))];
    const place = ([x, y]) => [edge + (x / 1000) * (size - 2 * edge), size - edge - (y / 1000) * (size - 2 * edge)];
    for (const layer of layers) layer.spots = layer.places.map(place);
    layers.slice(1).forEach((layer, number) => {
      const box = make("input", { type: "checkbox", id: `other-${number}` });
      box.checked = true;
      box.addEventListener("change", () => { layer.on = box.checked; draw(); });
      at("map-others").append(make("span", { class: "field" }, box, make("label", { for: box.id }, `${layer.name} (hollow)`)));
    });
    const shade = (n) => getComputedStyle(root).getPropertyValue(n < 0 ? "--quiet" : `--s${n % COLORS}`).trim();
    const spot = (shape, x, y, r) => {
      pen.beginPath();
      if (shape === 0) pen.arc(x, y, r, 0, 7);
      else if (shape === 1) pen.rect(x - r, y - r, 2 * r, 2 * r);
      else if (shape === 2) { pen.moveTo(x, y - 1.4 * r); pen.lineTo(x + 1.3 * r, y + r); pen.lineTo(x - 1.3 * r, y + r); pen.closePath(); }
      else { pen.moveTo(x, y - 1.5 * r); pen.lineTo(x + 1.5 * r, y); pen.lineTo(x, y + 1.5 * r); pen.lineTo(x - 1.5 * r, y); pen.closePath(); }
    };
    let cross = null, lasso = null;
    const draw = () => {
      pen.clearRect(0, 0, size, size);
      const tag = map.tags[color.value], most = COLORS * SHAPES;
      const r = map.places.length > 1500 ? 4 : 6;
      layers[0].spots.forEach(([x, y], n) => {
        const value = tag ? tag.of[n] : 0;
        const n2 = value < 0 || value >= most ? -1 : value;
        pen.globalAlpha = 0.75; pen.fillStyle = shade(n2);
        spot(n2 < 0 ? 0 : Math.floor(n2 / COLORS), x, y, r); pen.fill();
      });
      pen.globalAlpha = 1;
      layers.slice(1).forEach((layer, number) => {
        if (!layer.on) return;
        pen.strokeStyle = getComputedStyle(root).getPropertyValue("--text"); pen.lineWidth = 1.5;
        for (const [x, y] of layer.spots) { spot((number + 3) % 4, x, y, r); pen.stroke(); }
      });
      pen.strokeStyle = getComputedStyle(root).getPropertyValue("--link"); pen.lineWidth = 3;
      if (lasso) { pen.beginPath(); lasso.forEach(([x, y], n) => (n ? pen.lineTo(x, y) : pen.moveTo(x, y))); pen.stroke(); }
      if (cross) { pen.beginPath(); pen.moveTo(cross[0] - 25, cross[1]); pen.lineTo(cross[0] + 25, cross[1]); pen.moveTo(cross[0], cross[1] - 25); pen.lineTo(cross[0], cross[1] + 25); pen.stroke(); }
    };
    const SVG = "http://www.w3.org/2000/svg";
    const mark = (n) => {
      const svg = document.createElementNS(SVG, "svg"), shape = document.createElementNS(SVG, "path");
      svg.setAttribute("viewBox", "0 0 12 12"); svg.setAttribute("aria-hidden", "true");
      const d = ["M6 1a5 5 0 1 0 .01 0Z", "M1 1h10v10H1Z", "M6 0l6 12H0Z", "M6 0l6 6-6 6-6-6Z"];
      shape.setAttribute("d", d[Math.floor(n / COLORS)]); shape.setAttribute("class", `s${n % COLORS}`);
      svg.append(shape);
      return svg;
    };
    const explain = () => {
      const tag = map.tags[color.value];
      legend.replaceChildren(...(tag ? tag.values.slice(0, COLORS * SHAPES).map((value, n) => make("li", {}, mark(n), make("bdi", {}, value))) : []));
      if (tag && tag.values.length > COLORS * SHAPES) legend.append(make("li", { class: "quiet" }, `and ${tag.values.length - COLORS * SHAPES} more, in grey`));
      canvas.dataset.color = color.value;
    };
    color.addEventListener("change", () => { explain(); draw(); });
    const nearest = (x, y, count, within) => {
      const every = [];
      for (const layer of layers) if (layer.on) layer.spots.forEach(([a, b], n) => {
        const far = Math.hypot(a - x, b - y);
        if (far <= within) every.push([far, layer, n]);
      });
      return every.sort((one, other) => one[0] - other[0]).slice(0, count);
    };
    const say = ([, layer, n]) => `${layer === layers[0] ? "" : layer.name + ": "}${layer.ids[n]}: ${layer.texts[n]}`;
    const read = new Map(data.rows.map((row) => [row.id, row]));
    const open = (id) => {
      at("clear").click(); search.value = id; first = 0; show();
      const details = list.querySelector("details");
      if (details) { details.open = true; details.querySelector("summary").focus(); details.scrollIntoView({ block: "center" }); }
    };
    const enumerate = (hits) => {
      const rows = hits.slice(0, 200).map((hit) => {
        const [, layer, n] = hit, id = layer.ids[n];
        if (layer !== layers[0] || !read.has(id)) return make("li", {}, make("bdi", {}, say(hit)));
        const button = make("button", { type: "button" }, say(hit));
        button.addEventListener("click", () => open(id));
        return make("li", {}, button);
      });
      near.replaceChildren(make("p", { class: "quiet" }, `${hits.length} rows${hits.length > 200 ? ", 200 are listed" : ""}`), make("ul", {}, ...rows));
    };
    const where = (event) => {
      const box = canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * size, ((event.clientY - box.top) / box.height) * size];
    };
    const inside = ([x, y], path) => {
      let is = false;
      for (let n = 0, m = path.length - 1; n < path.length; m = n++) {
        const [a, b] = path[n], [c, d] = path[m];
        if ((b > y) !== (d > y) && x < ((c - a) * (y - b)) / (d - b) + a) is = !is;
      }
      return is;
    };
    canvas.addEventListener("pointerdown", (event) => { lasso = [where(event)]; cross = null; canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointermove", (event) => {
      const spotAt = where(event);
      if (lasso) { lasso.push(spotAt); draw(); return; }
      const hit = nearest(...spotAt, 1, 30)[0];
      hover.textContent = hit ? say(hit) : "";
    });
    canvas.addEventListener("pointerup", (event) => {
      const path = lasso ?? [], spotAt = where(event);
      lasso = null;
      const across = Math.max(...path.map(([x]) => x)) - Math.min(...path.map(([x]) => x));
      if (path.length > 4 && across > 20) {
        const hits = [];
        for (const layer of layers) if (layer.on) layer.spots.forEach((each, n) => { if (inside(each, path)) hits.push([0, layer, n]); });
        enumerate(hits);
      } else enumerate(nearest(...spotAt, 12, 60));
      draw();
    });
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [-30, 0], ArrowRight: [30, 0], ArrowUp: [0, -30], ArrowDown: [0, 30] }[event.key];
      if (steps) {
        cross ??= [size / 2, size / 2];
        cross = cross.map((value, axis) => Math.min(size, Math.max(0, value + steps[axis])));
        const hit = nearest(...cross, 1, 60)[0];
        hover.textContent = hit ? say(hit) : "";
      } else if (event.key === "Enter" || event.key === " ") enumerate(nearest(...(cross ??= [size / 2, size / 2]), 12, 120));
      else if (event.key === "Escape") { cross = null; near.replaceChildren(); }
      else return;
      event.preventDefault();
      draw();
    });
    changed.push(draw);
    explain();
    draw();
  }
  showTheme();
})();
