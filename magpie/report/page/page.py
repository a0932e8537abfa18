"""The page itself: its template filled in, with its style and script inside, and a policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

from magpie import __version__, shipped
from magpie.drawing.charts import Chart, Scatter
from magpie.drawing.inline import data_of, svg
from magpie.escaping import harmless, one_line
from magpie.figures.report_figures import ReportFigures
from magpie.report.page import overview
from magpie.report.page.content import as_script, page_data
from magpie.report.page.figure import Section
from magpie.report.page.sections import sections
from magpie.runs.public import dumped, public_recipe

_TEMPLATE, _STYLE, _SCRIPT = "report.html.jinja", "report.css", "report.js"
_MOST_DATA_ROWS = 200


def page(figures: ReportFigures) -> str:
    """The report as HTML: one file that needs no other, and asks nothing of any network."""
    style, script = (shipped.text("templates/report", name) for name in (_STYLE, _SCRIPT))
    html: str = _environment().get_template(_TEMPLATE).render(
        title=one_line(figures.rows.name, 80),
        version=__version__,
        policy=policy(style, script),
        made_from=_made_from(figures),
        style=_safe(style),
        script=_safe(script),
        data=_safe(as_script(page_data(figures))),
        facts=overview.facts(figures),
        warnings=overview.warnings(figures),
        funnel=overview.funnel(figures),
        sections=sections(figures),
        recipe=recipe_text(figures),
        total=figures.rows.table.num_rows,
        kept=figures.kept,
        read=len(figures.reading),
        has_map=figures.map is not None,
    )  # fmt: skip
    return html


def charts(figures: ReportFigures) -> list[Chart]:
    """Every chart of the page."""
    every: Sequence[Section] = sections(figures)
    funnel = overview.funnel(figures).chart
    rest = [figure.chart for section in every for figure in section.figures]
    return [chart for chart in (funnel, *rest) if chart is not None]


def policy(style: str, script: str) -> str:
    """The page's Content-Security-Policy: its own style and script by their hashes, and nothing from anywhere."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _made_from(figures: ReportFigures) -> str:
    """The lineage of the dataset that the page shows, by which a build sees whether it is out of date."""
    run = figures.rows.run
    manifest = None if run is None or figures.rows.unfinished is not None else run.dataset_files.manifest()
    return "" if manifest is None else manifest.made_from


def recipe_text(figures: ReportFigures) -> str | None:
    """The recipe as YAML, without what is of one machine: a report is given to others."""
    recipe = figures.rows.recipe
    return None if recipe is None else public_recipe(dumped(recipe))


def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(shipped.folder("templates/report")),
        autoescape=True,
        finalize=lambda value: harmless(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["svg"] = lambda chart: None if isinstance(chart, Scatter) else _safe(svg(chart))
    environment.filters["data"] = _data
    return environment


def _data(chart: Chart) -> tuple[list[str], list[list[str]]]:
    headings, rows = data_of(chart)
    return headings, rows[:_MOST_DATA_ROWS]


def _safe(text: str) -> Any:
    """Text that is ours, or has been escaped, to stand as it is."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
