"""The status of a run, again and again, for as long as a build is at work."""

from __future__ import annotations

import time
from collections.abc import Callable
from io import StringIO
from typing import TYPE_CHECKING

from rich.live import Live
from rich.text import Text

from magpie.figures.status import Status
from magpie.figures.status import status as status_of
from magpie.report.run_table import print_status
from magpie.terminal import new_console

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.runs.run import Run

EVERY = 2.0
"""Seconds between two looks; more where a look takes long, so that it costs the build little."""

_SHARE = 0.1  # of the time is spent on looking, at most


def watch(
    run: Run, console: Console, *, every: float = EVERY, sleep: Callable[[float], None] = time.sleep
) -> Status:
    """Show the status until no build is at work; the last one. On a terminal it stays in its place."""
    if not console.is_terminal:
        return _looks(run, every, sleep, lambda status: print_status(status, console))
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        return _looks(run, every, sleep, lambda status: live.update(_drawn(status, console), refresh=True))


def _looks(run: Run, every: float, sleep: Callable[[float], None], show: Callable[[Status], None]) -> Status:
    while True:
        began = time.monotonic()
        status = status_of(run)
        show(status)
        if status.running is None:
            return status
        sleep(max(every, (time.monotonic() - began) / _SHARE))


def _drawn(status: Status, console: Console) -> Text:
    """What `print_status` prints."""
    drawn = StringIO()
    colors = console.color_system is not None and not console.no_color
    print_status(status, new_console(file=drawn, width=console.width, force_terminal=colors))
    return Text.from_ansi(drawn.getvalue())
