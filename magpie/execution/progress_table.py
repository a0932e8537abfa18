"""The table that a person watches while a build runs: a line a step, and what is left after those that reject rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from magpie.execution.counts import StepCount, clock

_BAR = 20


def progress_table(
    doing: str, counts: Collection[StepCount], rows: int, planned: Mapping[str, float]
) -> RenderableType:
    """How far the steps of a build of `rows` are. `planned` are the rows/s of a plan, by the first step of a phase."""
    table = Table(title=Text(doing, style="bold"), title_justify="left", box=None, pad_edge=False)
    column = ("planned",) if planned else ()
    for heading in ("step", "rows", "", "rejected", "rows/s", *column, "tokens", "tokens/s", "left"):
        table.add_column(heading, justify="left" if heading in {"step", ""} else "right")
    for count in counts:
        done, made, left = count.done(rows), count.made(rows), count.seconds_left(rows)
        rate = planned.get(count.name)
        table.add_row(
            count.name,
            f"{done:,}/{rows:,}",
            _bar(done / rows, "green"),
            f"{count.rejected:,}" if count.rejected else "",
            f"{made / count.seconds:,.1f}" if made and count.started is not None else "",
            *(() if not planned else ("" if rate is None else f"≤ {rate:,.1f}",)),
            f"{count.tokens:,}" if count.tokens else "",
            f"{count.tokens / count.seconds:,.0f}" if count.tokens else "",
            "" if left is None else clock(left),
        )
    funnel = running_funnel(counts)
    return table if funnel is None else Group(table, funnel)


def running_funnel(counts: Iterable[StepCount]) -> Table | None:
    """What is left after each step that rejects rows, as a share of the rows it has seen; None while none is out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    left, any_out = 1.0, False
    for count in counts:
        if not count.rows or not count.rejected:
            continue
        any_out = True
        left = max(left - count.rejected / count.rows, 0.0)
        table.add_row(
            Text(f"left after {count.name}", "dim"), _bar(left, "cyan"), f"{left:.0%}",
            Text(f"about {round(left * count.rows):,} of {count.rows:,}", "dim"),
        )  # fmt: skip
    return table if any_out else None


def _bar(share: float, style: str) -> Text:
    full = round(min(share, 1.0) * _BAR)
    return Text.assemble(("━" * full, style), ("━" * (_BAR - full), "dim"))
