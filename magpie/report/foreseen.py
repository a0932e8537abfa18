"""What a build would take over and what it would make, step by step, printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from magpie.execution.counts import clock
from magpie.figures.run_log import phase_seconds
from magpie.report.text import as_text

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.plan import Plan
    from magpie.plan.foresee import Foreseen
    from magpie.runs.run import Run


def print_foreseen(foreseen: Sequence[Foreseen], title: str, console: Console) -> None:
    """Print a line a step: rows taken over, rows made, and about how many tokens a model would write for those."""
    table = Table(title=as_text(title, "table.title"), title_justify="left", box=None, pad_edge=False)
    for heading in ("step", "rows taken over", "rows made", "tokens"):
        table.add_column(heading, justify="left" if heading == "step" else "right", overflow="fold")
    for step in foreseen:
        table.add_row(
            step.step,
            _rows(step.taken, step.may_be_taken),
            _rows(step.made, step.may_be_made),
            f"about {step.tokens:,}" if step.tokens else "",
        )
    console.print(table)
    if any(step.may_be_taken or step.may_be_made for step in foreseen):
        console.print(
            "“up to”: whether a row comes so far is known when the steps before have been at it",
            highlight=False,
            soft_wrap=True,
        )


def print_seconds(foreseen: Sequence[Foreseen], plan: Plan, earlier: Run, console: Console) -> None:
    """Print how long the making would take at the speed of an earlier run, where its log says that."""
    seconds, made = 0.0, {step.step: step.made + step.may_be_made for step in foreseen}
    spent = phase_seconds(earlier)
    for phase in plan.phases:
        if phase.name in spent:
            rows = max(made.get(run_step.name, 0) for run_step in phase.steps)
            seconds += spent[phase.name] * rows / earlier.recipe.rows
    if seconds >= 1:
        console.print(
            Text(f"about {clock(seconds)} at most, at the speed of the builds before, loading left out"),
            soft_wrap=True,
        )


def _rows(sure: int, maybe: int) -> str:
    if not sure + maybe:
        return ""
    return f"up to {sure + maybe:,}" if maybe else f"{sure:,}"
