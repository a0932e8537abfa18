"""The progress of samples, printed: a bar with rate and time left on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from magpie.escaping import harmless

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Task

    from magpie.neighbors.vectors import ProgressCallback

# Seconds between two lines where there is no terminal, such as in a log.
_LINE_EVERY = 15.0


@contextmanager
def shown_progress(console: Console) -> Iterator[ProgressCallback]:
    """A callback that shows progress on `console`. On a terminal it is erased at the end."""
    if not console.is_terminal:
        yield _in_lines(console)
        return
    columns = (
        SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=20),
        MofNCompleteColumn(), _Rate(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        shown = ("", 0)

        def on_progress(what: str, done: int, total: int) -> None:
            nonlocal shown
            if (what, total) != shown:
                # The bar begins anew, so that its rate is that of the new work.
                shown = (what, total)
                progress.reset(task, total=total or None, description=harmless(what))
            progress.update(task, completed=done)

        yield on_progress


def _in_lines(console: Console) -> ProgressCallback:
    printed_at = time.monotonic()

    def on_progress(what: str, done: int, total: int) -> None:
        nonlocal printed_at
        if time.monotonic() - printed_at >= _LINE_EVERY:
            printed_at = time.monotonic()
            line = f"{what}: {done} of {total}" if total else what
            console.print(Text(harmless(line)), soft_wrap=True)

    return on_progress


class _Rate(ProgressColumn):
    """Completions a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None or task.total is None else f"{task.speed:,.1f}/s", style="dim")
