"""The status of a run, printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from magpie.escaping import harmless, one_line
from magpie.execution.counts import clock
from magpie.figures.funnel import quota_outcome
from magpie.report.filter_tables import print_groups
from magpie.report.judges import print_agreement
from magpie.report.text import as_text
from magpie.runs.verify import quarantined
from magpie.text import counted

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.figures.status import Status
    from magpie.runs.live import Running
    from magpie.runs.run import Run


def print_status(status: Status, console: Console) -> None:
    """Print, step by step, shards done, rows in and out, and why rows are out; then how many of the next would be new.

    The number after ± is one standard error.
    """
    took = "" if status.seconds is None else f" in {clock(status.seconds)}"
    state = (
        f"finished{took}, {counted(status.kept or 0, 'row')} kept of {status.rows:,} "
        f"({(status.kept or 0) / status.rows:.0%})"
        if status.finished
        else "not finished: run the build again to go on"
    )
    if status.running is not None:
        state = _at_work(status.running)
    # Not as the table's title, which would be folded to the width of the table.
    console.print(as_text(f"{status.folder}: {state}", "table.title"), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for heading in ("step", "shards", "rows in", "rows out", "tokens"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for step in status.steps:
        tokens = f"{step.tokens:,}" if step.tokens else ""
        shards = f"{step.shards_done}/{step.shards}"
        table.add_row(step.name, shards, f"{step.rows_in:,}", f"{step.rows_out:,}", tokens)
        for outcome, count in (step.outcomes or {}).items():
            table.add_row(as_text(f"  {outcome}", "dim"), "", "", Text(f"{count:,}", "dim"), "")
        for reason, count in step.rejected.items():
            table.add_row(as_text(f"  {reason}", "dim"), "", "", Text(f"−{count:,}", "dim"), "")
    console.print(table)
    _print_paces(status, console)
    if status.saturation is not None:
        ahead = status.saturation.next
        console.print(
            f"{ahead.new:,.0f} of the next {ahead.rows:,} would be new (± {ahead.standard_error:,.0f})",
            highlight=False,
            soft_wrap=True,
        )
    print_agreement(status.agreement, console)
    worries = (step.warning for step in status.steps if step.warning is not None)
    for line in (*worries, *(() if status.collapse is None else status.collapse.lines())):
        console.print(as_text(line, "yellow"), soft_wrap=True)
    for path in status.damaged:
        console.print(f"cannot be read: {path}", highlight=False, markup=False, soft_wrap=True)
    for rule in status.skipped_rules:
        console.print(f"filter rule left out: {rule}", highlight=False, markup=False, soft_wrap=True)


def _print_paces(status: Status, console: Console) -> None:
    """Print how fast each phase that was planned is, beside the plan."""
    if not status.paces:
        return
    table = Table(title="rows/s", title_justify="left", box=None, pad_edge=False)
    for heading in ("phase", "planned, at most", "measured", ""):
        table.add_column(heading, justify="left" if heading == "phase" else "right", overflow="fold")
    for pace in status.paces:
        measured = "" if pace.measured is None else f"{pace.measured:,.1f}"
        share = "" if pace.measured is None else f"{pace.measured / pace.planned:.0%}"
        table.add_row(pace.phase, f"{pace.planned:,.1f}", measured, share)
    console.print(table)


def _at_work(running: Running) -> str:
    """A build at work in words: its process, for how long, and how fast and how far its steps are."""
    host = f" on {running.host}" if running.host else ""
    parts = [f"running{host} (process {running.pid}, for {clock(running.seconds)})", running.doing]
    for step in running.steps:
        if step.rows_per_second is not None and step.seconds_left:
            rows = f"{step.name} {step.rows + step.in_hand:,} of {step.rows_in_all:,}"
            parts.append(f"{rows}, {step.rows_per_second:,.1f} rows/s, {clock(step.seconds_left)} left")
    return harmless("; ".join(filter(None, parts)))


def print_outcome(run: Run, status: Status, console: Console) -> None:
    """Print what a build made, and how to read it. `status` is that of the run."""
    print_status(status, console)
    for path in quarantined(run):
        console.print(f"in quarantine: {path}", highlight=False, markup=False, soft_wrap=True)
    if status.finished:
        groups, strange = quota_outcome(run)
        print_groups(groups, console)
        for value in strange:
            console.print(
                as_text(
                    f"`quotas.counts` names {one_line(value)!r}, which no row has; mend it, or take it out"
                ),
                soft_wrap=True,
            )
        console.print(
            f"Read it: magpie show {run.storage.location}", highlight=False, markup=False, soft_wrap=True
        )
