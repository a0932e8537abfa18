"""What a run took: tokens a second, hours and dollars as it went on, and rows a second beside the plan."""

from __future__ import annotations

from collections.abc import Iterator

from magpie.drawing.charts import Lines
from magpie.execution.counts import clock
from magpie.figures.report_figures import ReportFigures
from magpie.figures.work import Work
from magpie.report.page.figure import PageFigure, Table, dollars, percent, table


def times(figures: ReportFigures) -> Iterator[PageFigure]:
    """The figures of a run's work; none for a dataset, or where there is no log."""
    work = figures.work
    if work is None or work.seconds is None:
        return
    rows = [
        (step.name, f"{step.rows_in:,}", f"{step.tokens:,}", f"{step.tokens / max(step.rows_in, 1):,.1f}")
        for step in (() if figures.status is None else figures.status.steps)
        if step.tokens
    ]
    yield PageFigure(
        "speed",
        "Tokens a second",
        f"The builds of this run were at work for {clock(work.seconds)}, loading included.",
        "From the run's log: the tokens of shards, counted when these are done, over the time since those before them, "
        "or since the phase began. Times when no build was at work are left out.",
        Lines(
            "speed", "Tokens a second", "seconds at work", "tokens/s",
            {speed.phase: speed.points for speed in work.speeds},
        )
        if work.speeds
        else None,
        table(("step", "rows in", "tokens", "tokens a row"), rows) if rows else None,
    )  # fmt: skip
    if work.spent:
        yield _spent(work)
    if work.paces:
        yield _paces(work)


def _spent(work: Work) -> PageFigure:
    """Hours, and what they cost, of each phase as the run went on; dashed is what the plan gave it."""
    unit = "GPU hours" if work.gpus else "hours of the machine"
    total = work.hours(work.seconds or 0.0)
    on = f" on {work.gpus} GPUs" if work.gpus else ""
    cost = "" if work.cost is None else f", which cost {dollars(work.cost)}"
    lines, dashed = {}, set()
    for each in work.spent:
        lines[each.phase] = [(time, work.hours(own)) for time, own in each.points]
        if each.planned is not None:
            began = each.points[0][0]
            planned = f"{each.phase}, planned"
            dashed.add(planned)
            lines[planned] = [(began, 0.0), (began + each.planned, work.hours(each.planned))]
    unpriced = "" if work.cost is not None else " `--price` says what they cost."
    return PageFigure(
        "spent",
        "Hours and cost",
        f"The run took {_hours(total)} {unit}{on}{cost}.",
        "From the run's log: the time of each phase, for all GPUs, also those that waited; what is no phase is loading "
        f"and writing. Dashed is the least that the plan gave a phase, where there is one.{unpriced}",
        Lines("spent", "Hours and cost as the run went on", "seconds at work", unit, lines, frozenset(dashed)),
        _spent_table(work, unit),
    )  # fmt: skip


def _spent_table(work: Work, unit: str) -> Table:
    priced, planned = work.price is not None, any(each.planned is not None for each in work.spent)
    rows = []
    for each in work.spent:
        hours = work.hours(each.seconds)
        plan = "" if each.planned is None else _hours(work.hours(each.planned))
        cost = dollars(hours * (work.price or 0.0))
        rows.append((each.phase, _hours(hours), *([plan] if planned else []), *([cost] if priced else [])))
    headings = (["planned, at least"] if planned else []) + (["cost"] if priced else [])
    return table(("phase", unit, *headings), rows)


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 100 else f"{hours:,.2f}" if hours >= 1 else f"{hours:.3f}"


def _paces(work: Work) -> PageFigure:
    rates = [
        (
            pace.phase,
            f"{pace.planned:,.1f}",
            "" if pace.measured is None else f"{pace.measured:,.1f}",
            "" if pace.measured is None else percent(pace.measured / pace.planned),
        )
        for pace in work.paces
    ]
    return PageFigure(
        "plan",
        "Planned beside measured",
        "Rows a second of each phase, as planned and as measured.",
        "The plan is a roofline: what the GPU could do at most. Measured over all shards of the phase, loading "
        "left out.",
        table=table(("phase", "planned, at most", "measured", "share"), rates),
    )
