"""What a run took: tokens a second as it went on, and rows a second beside the plan."""

from __future__ import annotations

from collections.abc import Iterator

from magpie.drawing.charts import Lines
from magpie.execution.progress import clock
from magpie.figures.report_figures import ReportFigures
from magpie.report.page.figure import PageFigure, percent, table


def times(figures: ReportFigures) -> Iterator[PageFigure]:
    """The figures of a run's work; none for a dataset, or where there is no log."""
    work = figures.work
    if work is None or work.seconds is None:
        return
    hours = "" if work.gpu_hours is None else f", {work.gpu_hours:.2f} GPU hours on {work.gpus} GPUs"
    said = f"The builds of this run were at work for {clock(work.seconds)}{hours}, loading included."
    rows = []
    for step in () if figures.status is None else figures.status.steps:
        if step.tokens:
            rows.append(
                (
                    step.name,
                    f"{step.rows_in:,}",
                    f"{step.tokens:,}",
                    f"{step.tokens / max(step.rows_in, 1):,.1f}",
                )
            )
    yield PageFigure(
        "speed",
        "Tokens a second",
        said,
        "Tokens of each shard, counted when it was done, in forty equal parts of the time; from the run's log.",
        Lines(
            "speed", "Tokens a second", "seconds since the start", "tokens/s",
            {speed.phase: speed.points for speed in work.speeds},
        )
        if work.speeds
        else None,
        table(("step", "rows in", "tokens", "tokens a row"), rows) if rows else None,
    )  # fmt: skip
    if work.paces:
        rates = [
            (
                pace.phase,
                f"{pace.planned:,.1f}",
                "" if pace.measured is None else f"{pace.measured:,.1f}",
                "" if pace.measured is None else percent(pace.measured / pace.planned),
            )
            for pace in work.paces
        ]
        yield PageFigure(
            "plan",
            "Planned beside measured",
            "Rows a second of each phase, as planned and as measured.",
            "The plan is a roofline: what the GPU could do at most. Measured over all shards of the phase, loading "
            "left out.",
            table=table(("phase", "planned, at most", "measured", "share"), rates),
        )  # fmt: skip
