"""The first rows of a build, printed as they come: what a model writes is seen in the first minute, not at the end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
from rich.text import Text

from magpie.errors import MagpieError
from magpie.escaping import harmless, one_line
from magpie.execution.base import Committed, Event, Report
from magpie.steps.base import REJECTED

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.runs.run import Run

ROWS = 5
"""How many rows are shown of each column."""

_COLUMNS = ("instruction", "response")
_LONGEST = 400
_PATIENCE = 5.0  # seconds at the end for what is still being read: a look is not worth more


class Peek:
    """Prints the first rows that have an instruction, and the first that have a response, `rows` of each at most.

    It reads them in a thread of its own while the block lasts: a slow bucket keeps no worker waiting.
    """

    def __init__(self, run: Run, console: Console, rows: int = ROWS) -> None:
        self._run, self._console = run, console
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="peek")
        self._asked: list[Future[None]] = []
        self._left = {
            run_step.name: (column, rows)
            for column in _COLUMNS
            # The last step that writes a column has it as it stays.
            for run_step in [step for step in run.steps if column in step.step.adds.names][-1:]
        }

    def __enter__(self) -> Peek:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            wait(self._asked, timeout=_PATIENCE)
        self._reader.shutdown(wait=False, cancel_futures=True)

    def beside(self, report: Report) -> Report:
        """`report`, and this after it."""

        def both(event: Event) -> None:
            report(event)
            self.handle(event)

        return both

    def handle(self, event: Event) -> None:
        """Have rows printed where a shard of theirs has come."""
        if isinstance(event, Committed) and event.step in self._left:
            with suppress(RuntimeError):  # the block has ended
                self._asked.append(self._reader.submit(self._show, event))

    def _show(self, event: Committed) -> None:
        column, left = self._left.get(event.step, ("", 0))
        if not left:
            return
        try:
            shown = self._print(event, column, left)
        except MagpieError:  # the shard is gone already: a look is no reason to fail
            return
        self._left[event.step] = (column, left - shown)
        if left <= shown:
            del self._left[event.step]

    def _print(self, event: Committed, column: str, left: int) -> int:
        run = self._run
        after = next((step for step in run.steps if step.number == event.number + 1), None)
        columns = _COLUMNS[: _COLUMNS.index(column) + 1]
        rows = run.rows(event.shard, columns, before=after, check=False)
        held = pc.and_(pc.is_null(rows[REJECTED.name]), pc.is_valid(rows[column]))
        chosen = rows.filter(held).slice(0, left).to_pylist()
        for row in chosen:
            self._console.print(_line(row, columns), soft_wrap=True)
        return len(chosen)


def _line(row: dict[str, Any], columns: tuple[str, ...]) -> Text:
    text = Text(harmless(str(row["id"])), "dim")
    styles: Callable[[str], str] = {"instruction": "cyan", "response": "green"}.__getitem__
    for number, column in enumerate(columns):
        text.append("  " if number == 0 else "\n    ")
        text.append(harmless(one_line(row[column] or "", _LONGEST)), styles(column))
    return text
