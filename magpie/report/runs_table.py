"""The runs below a folder, printed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.table import Table

from magpie.escaping import one_line
from magpie.figures.found_runs import FoundRun
from magpie.report.text import as_text

if TYPE_CHECKING:
    from rich.console import Console


def print_runs(runs: Sequence[FoundRun], folder: str, console: Console) -> None:
    """Print a line a run: its recipe, rows, rows kept, state, and when its build last said something."""
    if not runs:
        console.print(as_text(f"no runs in {folder}; build one: magpie build demo"), soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "recipe", "rows", "kept", "state", "last heard of"):
        table.add_column(heading, justify="right" if heading in {"rows", "kept"} else "left", overflow="fold")
    for run in runs:
        state = f"{run.state}: {one_line(run.what, 100)}" if run.what else run.state
        table.add_row(
            as_text(run.folder),
            as_text(run.recipe or ""),
            "" if run.rows is None else f"{run.rows:,}",
            "" if run.kept is None else f"{run.kept:,}",
            as_text(state, "" if run.state != "unreadable" else "red"),
            "" if run.changed is None else f"{datetime.fromtimestamp(run.changed):%Y-%m-%d %H:%M}",
        )
    console.print(table)
