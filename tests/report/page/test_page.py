"""The page: it needs nothing else, lets nothing in, and says what there is to say; hostile texts stay texts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import small_recipe

import magpie
from magpie.errors import RunError
from magpie.figures.report_figures import ReportFigures, report_figures
from magpie.report.page import overview
from magpie.report.page.content import MOST_LETTERS, as_script
from magpie.report.page.page import charts, page
from magpie.report.page.sections import sections
from magpie.runs.run import Run
from magpie.runs.verify import verify

HOSTILE = {
    "script": "<script>document.title = 'taken'</script>",
    "end of data": "</script><script>alert(1)</script><!-- <script>",
    "textarea": "</textarea></title></style><img src=x onerror=alert(1)>",
    "link": "[click](javascript:alert(1)) and ![see](http://example.org/a.png)",
    "ansi": "\x1b[2J\x1b[31mred\x07",
    "direction": "\u202eevil\u2066 \u200f text",
    "jinja": "{{ 7 * 7 }} {% raw %}",
    "long": "x" * 1_000_000,
    "fence": "```\n<b>no</b>\n~~~ ``` `" + "`" * 200,
}


class Elements(HTMLParser):
    """The elements of a page, its ids, and what it points to."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.names: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[str, str] = {}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._inside = dict(attrs).get("id") or tag

    def handle_data(self, data: str) -> None:
        self.texts[self._inside] = self.texts.get(self._inside, "") + data

    def of(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return magpie.build(small_recipe(rows=160), out=tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def figures(run: Run) -> ReportFigures:
    return report_figures(run, quick=True)


@pytest.fixture(scope="module")
def html(figures: ReportFigures) -> str:
    return page(figures)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a dataset of nothing but hostile texts, in every column that is shown."""
    texts = list(HOSTILE.values()) * 3
    columns: dict[str, Any] = {
        "id": [f"{text[:40]}-{number}" for number, text in enumerate(texts)],
        "instruction": texts, "response": texts[::-1], "task_category": texts, "language": ["en"] * len(texts),
    }  # fmt: skip
    place = tmp_path_factory.mktemp("data") / "<b>rows.parquet"
    pq.write_table(pa.table(columns), place)
    return page(report_figures(place, quick=True))


def test_the_policy_lets_in_the_page_s_own_style_and_script_alone(html: str) -> None:
    elements = Elements(html)
    (policy,) = [value for value in elements.of("content") if "default-src" in value]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for name, source in (("style", "style-src"), ("script", "script-src")):
        (text,) = re.findall(rf"<{name}>(.*?)</{name}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{source} 'sha256-{digest}'" in policy


@pytest.mark.parametrize("which", ["html", "hostile"])
def test_nothing_points_out_of_the_page_and_nothing_acts(which: str, request: pytest.FixtureRequest) -> None:
    elements = Elements(request.getfixturevalue(which))
    assert elements.names.count("script") == 2 and elements.names.count("style") == 1
    assert not {"img", "iframe", "object", "embed", "form", "base", "textarea", "b"} & set(elements.names)
    assert not [
        name for _, name, _ in elements.attributes if name.startswith("on") or name in {"src", "style"}
    ]
    assert {value.partition(",")[0] for value in elements.of("href")} <= {"data:"} | {
        f"#{name}" for name in elements.of("id")
    }


def test_ids_are_unique_and_every_control_has_a_label(html: str) -> None:
    elements = Elements(html)
    ids = elements.of("id")
    assert len(ids) == len(set(ids))
    assert set(elements.of("for")) <= set(ids)
    assert set(elements.of("aria-labelledby")) <= set(ids)


def test_hostile_texts_are_cut_and_written_out(hostile: str) -> None:
    assert len(hostile) < 3_000_000
    data = json.loads(Elements(hostile).texts["data"])
    texts = [text for row in data["rows"] for _, text in row["talk"]]
    assert HOSTILE["script"] in texts  # as text, which the page's script never makes markup of
    assert max(map(len, texts)) < MOST_LETTERS + 100
    assert not re.search("[\x00-\x08\x0b-\x1f\u200f\u202a-\u202e\u2066-\u2069]", hostile)


def test_no_json_ends_the_element_it_stands_in() -> None:
    value = {"</script>": ["<!--", "&amp;", "\u2028"]}
    assert not set("<>&") & set(as_script(value))
    assert json.loads(as_script(value)) == value


def test_every_figure_says_what_it_shows_and_how(figures: ReportFigures, html: str) -> None:
    every = [figure for section in sections(figures) for figure in section.figures]
    assert len(every) > 8
    for figure in every:
        if figure.why_not is None:
            assert figure.says and figure.how
        assert f'id="{figure.name}"' in html


def test_the_first_screen_has_the_run_s_numbers(figures: ReportFigures, run: Run) -> None:
    facts = dict(overview.facts(figures))
    assert facts["Rows kept"] == f"{run.dataset().num_rows:,} of 160"
    assert facts["Asked for"] == "160 instructions"
    funnel = overview.funnel(figures).chart
    assert funnel is not None
    counts = [count for _, count in funnel.bars]  # type: ignore[union-attr]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (160, run.dataset().num_rows)


def test_a_planted_collapse_is_named_on_the_first_screen(tmp_path: Path) -> None:
    """A third of the rows is about travel, and opens with the same words."""
    travel = [f"Plan a travel itinerary for a visit to city number {number}" for number in range(100)]
    others = [f"word{number} thing{number * 7} about matter{number * 13}" for number in range(200)]
    pq.write_table(pa.table({"instruction": travel + others}), tmp_path / "rows.parquet")
    warned = " ".join(overview.warnings(report_figures(tmp_path / "rows.parquet", quick=True)))
    assert "33% of the rows hold the word “city”" in warned
    assert "33% of the rows begin with the same words: “plan a travel itinerary for a ...”" in warned


def test_every_chart_is_drawn_as_files(figures: ReportFigures) -> None:
    from magpie.drawing.files import draw

    names = [chart.name for chart in charts(figures)]
    assert {"funnel", "map", "categories", "characters"} <= set(names)
    drawn = draw(charts(figures)[:3], ("png", "svg"))
    assert len(drawn) == 3 * 2 * 2
    assert all(data.startswith((b"\x89PNG", b"<?xml")) for data in drawn.values())
    assert drawn == draw(charts(figures)[:3], ("png", "svg"))


def test_a_report_lies_in_its_run_which_stays_whole(run: Run, tmp_path: Path) -> None:
    place = magpie.report(run, figures=False, quick=True)
    assert place == run.folder / "report.html"
    assert verify(run) == []
    other = magpie.report(run.folder / "dataset", tmp_path / "new" / "page.html", figures=False, quick=True)
    assert other.read_text().startswith("<!doctype html>")
    with pytest.raises(RunError, match="--out"):
        file = next((run.folder / "dataset").glob("*.parquet"))
        magpie.report(file, figures=False, quick=True)


def test_a_build_writes_its_report_once_and_never_fails_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = magpie.build(small_recipe(), out=tmp_path / "run", report=True)
    place = run.folder / "report.html"
    written = place.read_bytes()
    place.write_bytes(written + b"<!-- looked at -->")
    magpie.build(small_recipe(), out=tmp_path / "run", report=True)
    assert place.read_bytes().endswith(b"<!-- looked at -->")  # it was of this dataset already
    place.unlink()
    monkeypatch.setattr("magpie.report.page.writing.report_figures", lambda *_, **__: 1 / 0)
    magpie.build(small_recipe(), out=tmp_path / "run", report=True)
    assert not place.exists() and "could not be written" in (run.folder / "log.jsonl").read_text()
    assert verify(run) == []


def test_a_report_may_be_switched_off(tmp_path: Path) -> None:
    run = magpie.build(small_recipe(), out=tmp_path / "run", report=False)
    assert not (run.folder / "report.html").exists()
