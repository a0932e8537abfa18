"""The text of a card: its template filled in, and all that the template prints escaped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from magpie import shipped
from magpie.figures.status import Status
from magpie.publish.card import escape
from magpie.publish.card.escape import Markdown, inline
from magpie.publish.card.facts import Facts
from magpie.publish.card.front import CONFIG_NAMES, languages
from magpie.publish.card.measures import SEED
from magpie.runs.public import public_name, public_reason

if TYPE_CHECKING:
    from huggingface_hub import DatasetCardData

_TEMPLATE, _PROGRESS = "dataset.md.jinja", "progress.md.jinja"
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def render(front: DatasetCardData, facts: Facts, figures: tuple[str, ...], folder_url: str) -> str:
    """The whole card. `figures` are the names of those that are drawn, `folder_url` is what comes before `figures/`."""
    from huggingface_hub import DatasetCard

    body = _environment().get_template(_TEMPLATE).render(
        f=facts,
        languages=languages(facts.measures),
        config_names=[name for part in facts.parts for name in part.configs(CONFIG_NAMES[part.prefix])],
        part_names={prefix: names[0] for prefix, names in CONFIG_NAMES.items()},
        code_name=lambda config: _load_arguments(facts, config),
        figure=lambda name, what: _figure(name, what, figures, folder_url),
        seed=SEED,
        is_text=lambda value: isinstance(value, str),
    )  # fmt: skip
    text = "\n".join(["---", front.to_yaml(line_break="\n"), "---", "", _without_gaps(body)])
    return str(DatasetCard(text).content)  # which reads its own front matter back, and raises where it cannot


def render_progress(front: DatasetCardData, status: Status) -> str:
    """The card of a dataset whose build is at work."""
    body = _environment().get_template(_PROGRESS).render(s=status)
    return "\n".join(["---", front.to_yaml(line_break="\n"), "---", "", _without_gaps(body)])


def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(shipped.folder("templates/card")),
        autoescape=False,  # noqa: S701 - `finalize` escapes for Markdown, which is more
        finalize=inline,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    filters: dict[str, Callable[[Any], object]] = {
        "number": lambda value: f"{value:,}",
        "percent": lambda share: "under 0.1 %" if 0 < share < 0.001 else f"{share:.1%}".replace("%", " %"),
        "size": _size,
        "figure_of": lambda value: "–" if value is None else f"{value:.2f}",
        "place": public_name,
        "reason": public_reason,
    }
    environment.filters |= filters
    environment.globals |= {
        "code": escape.code,
        "block": escape.block,
        "verbatim": escape.verbatim,
        "link": lambda url: Markdown(quote(str(url), safe=":/?&=%#._~-")),
    }
    return environment


def _load_arguments(facts: Facts, config: str) -> Markdown:
    place = facts.repo or "path/to/this/folder"
    arguments = [place] if config == "default" else [place, config]
    return Markdown(", ".join(f'"{each}"' for each in [*arguments]) + ', split="train"')


def _figure(name: str, what: str, drawn: tuple[str, ...], folder_url: str) -> Markdown:
    if name not in drawn:
        return Markdown("")
    place = f"{folder_url}figures/{name}"
    return Markdown(
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{place}-dark.png">'
        f'<img alt="{inline(what)}" src="{place}-light.png" width="680"></picture>\n'
    )


def _size(count: int) -> str:
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def _without_gaps(body: str) -> str:
    """The text with one empty line where the template leaves several, outside of blocks of code."""
    lines: list[str] = []
    fence = ""
    for line in body.strip("\n").split("\n"):
        ticks = line[: len(line) - len(line.lstrip("`"))]
        if not fence and len(ticks) >= 3:
            fence = ticks
        elif fence and line.rstrip() == fence:
            fence = ""
        if not fence:
            line = line.rstrip()  # noqa: PLW2901 - two spaces at an end would be a line break
            if not line and lines and not lines[-1]:
                continue
        lines.append(line)
    return "\n".join(lines) + "\n"
