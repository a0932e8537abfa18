"""The first screen: what was asked for, what came out, where rows went, and what somebody should look at."""

from __future__ import annotations

from collections.abc import Iterator

from magpie.drawing.charts import Bars
from magpie.escaping import one_line
from magpie.execution.counts import clock
from magpie.figures.collapse import collapse
from magpie.figures.counts import CUT
from magpie.figures.report_figures import ReportFigures
from magpie.report.page.figure import PageFigure, dollars, percent, table
from magpie.runs.public import public_name, public_reason
from magpie.steps.base import MANY_CUT
from magpie.text import counted

_EXAMPLES, _READ, _SHOWN = 3, 600, 160  # of a reason; characters read, and shown
_OTHER_LANGUAGE, _UNSAFE, _LOST, _NEAR = 0.05, 0.02, 0.9, 0.01
"""From which shares on something is worth a warning."""


def facts(figures: ReportFigures) -> list[tuple[str, str]]:
    """What was asked and what came out, as names and values."""
    rows, recipe = figures.rows, figures.rows.recipe
    found = [("Rows kept", f"{figures.kept:,} of {rows.table.num_rows:,}")]
    if recipe is not None:
        models = sorted({(role, public_name(model.model)) for role, model in recipe.models.items()})
        found += [("Recipe", recipe.name), ("Asked for", f"{recipe.rows:,} instructions")]
        found += [(role.capitalize(), name) for role, name in models]
        turns = figures.spreads.get("turns")
        if turns is not None:
            found.append(("Turns a conversation", f"{turns.mean:.1f} on average"))
    tokens = [
        figures.spreads[name] for name in ("instruct_tokens", "response_tokens") if name in figures.spreads
    ]
    if tokens:
        found.append(
            ("Tokens in kept first turns", f"{int(sum(spread.values.sum() for spread in tokens)):,}")
        )
    if figures.topics is not None:
        found.append(
            ("Largest topic", f"{percent(figures.topics.largest.share)}: {figures.topics.largest.name}")
        )
    return [*found, *_work(figures)]


def _work(figures: ReportFigures) -> Iterator[tuple[str, str]]:
    done = figures.work
    if done is None or done.seconds is None:
        return
    yield "Time at work", clock(done.seconds)
    if done.gpu_hours is not None:
        yield "GPU hours", f"{done.gpu_hours:,.2f}"
    if done.cost is not None and done.price is not None:
        what = "a GPU hour" if done.gpus else "an hour of the machine"
        yield "Cost", f"{dollars(done.cost)} at {dollars(done.price)} {what}"


def warnings(figures: ReportFigures) -> list[str]:
    """What somebody should look at, the most important first."""
    fallen = collapse(figures.topics, figures.rows)
    return [*(() if fallen is None else fallen.lines()), *_of_state(figures), *_of_shares(figures)]


def _of_state(figures: ReportFigures) -> Iterator[str]:
    rows = figures.rows
    if rows.unfinished is not None:
        yield f"the build is not finished: rows are shown as they were before {rows.unfinished}"
    if rows.recipe is not None and any(model.engine == "scripted" for model in rows.recipe.models.values()):
        yield "the texts are those of a script that stands in for a model: they mean nothing"
    status = figures.status
    if status is not None:
        yield from (f"cannot be read: {place}" for place in status.damaged)
        yield from (f"filter rule left out: {rule}" for rule in status.skipped_rules)
    total = rows.table.num_rows
    if total and figures.kept == 0:
        yield "not one row is kept: see which rule keeps most of them out"
    elif total and figures.kept < (1 - _LOST) * total:
        yield f"{percent(1 - figures.kept / total)} of the rows are out: see which rule keeps most of them out"


def _of_shares(figures: ReportFigures) -> Iterator[str]:
    ended = figures.counts.get("response_finish_reason")
    if ended is not None and ended.share(CUT) >= MANY_CUT:
        yield f"{percent(ended.share(CUT))} of the kept responses were cut: allow more tokens, or drop these rows"
    spoken = figures.languages
    if spoken is not None and spoken.differ >= _OTHER_LANGUAGE:
        yield f"{percent(spoken.differ)} of the responses are in another language than the instruction"
    safety = figures.counts.get("llama_guard")
    if safety is not None and safety.share("unsafe") >= _UNSAFE:
        yield f"{percent(safety.share('unsafe'))} of the kept rows were found unsafe"
    for distance in figures.distances:
        if distance.near >= _NEAR:
            yield f"{percent(distance.near)} of the rows nearly repeat a row of {distance.name}"


def funnel(figures: ReportFigures) -> PageFigure:
    """Where rows went: those left after each step and each rule that loses some."""
    total = figures.rows.table.num_rows
    lines = _lines(figures)
    bars = Bars(
        "funnel",
        "Rows left after each step and rule that loses some",
        tuple((name, left) for name, left in lines),
    )
    lost = [
        (public_reason(reason), f"{count:,}", percent(count / total))
        for reason, count in _reasons(figures).items()
    ]  # fmt: skip
    return PageFigure(
        "funnel",
        "The funnel",
        f"Of {total:,} rows {figures.kept:,} are kept ({percent(figures.kept / total) if total else 'none'})."
        + _cut(figures),
        "Counted from the run's `rejected` column: a row counts for the first reason that put it out. Examples are "
        "drawn by a seed; there are more of them below, under “Rows to read”.",
        bars,
        table(("reason", "rows out", "of all"), lost) if lost else None,
        examples=_examples(figures),
    )  # fmt: skip


def _cut(figures: ReportFigures) -> str:
    """How many of all responses came to their limit, kept or not, if any: the funnel alone does not show them."""
    ended = figures.counts.get("response_finish_reason")
    if ended is None:
        return ""
    cut = ended.every.get(CUT, 0)
    answered = cut + ended.every.get("stop", 0)  # as `status` counts them
    if not cut:
        return ""
    were = "was" if cut == 1 else "were"
    return f" Of {counted(answered, 'response')} {cut:,} {were} cut at the limit."


def _examples(figures: ReportFigures) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """For each reason the beginnings of a few texts that it put out."""
    texts = {row.position: row.messages[0][1] if row.messages else "" for row in figures.reading}
    return tuple(
        (
            public_reason(reason),
            tuple(one_line(texts[at][:_READ], _SHOWN) or "(empty)" for at in positions[:_EXAMPLES].tolist()),
        )
        for reason, positions in figures.examples.items()
    )


def _reasons(figures: ReportFigures) -> dict[str, int]:
    import pyarrow.compute as pc

    counts = {
        pair["values"]: pair["counts"] for pair in pc.value_counts(figures.rows.table["rejected"]).to_pylist()
    }
    counts.pop(None, None)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _lines(figures: ReportFigures) -> list[tuple[str, int]]:
    """(name, rows left): the steps in their order, the rules of the filter one by one."""
    left = figures.rows.table.num_rows
    lines = [("asked for", left)]
    if figures.status is None:
        return [*lines, ("kept", figures.kept)]
    for step in figures.status.steps:
        for reason, lost in step.rejected.items():
            left -= lost
            lines.append((public_reason(reason), left))
    return lines
