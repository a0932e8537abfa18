"""One query of DuckDB, under limits of time and memory, and so that it can be stopped.

Expressions come from files that people share, and a short one can work for hours.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from magpie import machine
from magpie.errors import FilterError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

T = TypeVar("T")

MOST_MEMORY = min(4_000_000_000, machine.memory_limit() // 2)
_SECONDS, _SECONDS_A_ROW = 30.0, 0.002
_LOOK_EVERY = 0.2
_let_go: ContextVar[Callable[[], object] | None] = ContextVar("_let_go", default=None)


@contextmanager
def stopped_by(check: Callable[[], object]) -> Iterator[None]:
    """While the block lasts, `check` is called again and again during each query; an exception of it ends the query."""
    token = _let_go.set(check)
    try:
        yield
    finally:
        _let_go.reset(token)


def within_limits(cursor: DuckDBPyConnection, query: Callable[[], T], *, rows: int) -> T:
    """What `query` returns. It has half a minute, and 2 ms a row; a signal ends it at once. Raises FilterError."""
    seconds = _SECONDS + _SECONDS_A_ROW * rows
    results: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            results.append(query())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    # In a thread of its own: while DuckDB works, Python's handlers of signals would not run in the main thread. No one
    # waits for a daemon at the end: one call of a function is not interrupted, however long it takes.
    threading.Thread(target=work, name="filter", daemon=True).start()
    check, waited, used_before = _let_go.get(), 0.0, machine.used_memory()
    try:
        while not done.wait(_LOOK_EVERY):
            waited += _LOOK_EVERY
            if check is not None:
                check()
            # DuckDB's own limit is not asked for the texts and lists that a function makes.
            if machine.used_memory() - used_before > MOST_MEMORY:
                raise FilterError(
                    f"takes more than {MOST_MEMORY / 1e9:.0f} GB of memory; make smaller values"
                )
            if waited > seconds:
                raise FilterError(
                    f"takes longer than {seconds:.0f} seconds for {rows:,} rows; write it so that each row takes less"
                )
    except BaseException:
        cursor.interrupt()
        raise
    if errors:
        raise errors[0]
    return results[0]
