"""Progress bars of what takes long: with a rate, and the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""A progress bar: what it is of, and how much; in its block, it is told how much more is done."""


def bar_on(console: Console) -> Bar:
    """What draws a bar on the console for each thing that is done; it is gone when that is done."""

    if not console.is_terminal:  # a file has no use for bars
        return no_bar

    @contextmanager
    def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[rate]}", style="progress.data.speed"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(what, total=max(total, 1), rate="")

            def done(more: int) -> None:
                speed = progress.tasks[task].speed
                progress.update(task, advance=more, rate="" if speed is None else f"{_short(speed)}/s")

            yield done

    return bar


def no_bar(what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """The same without a console."""
    return nullcontext(lambda _: None)


def _short(number: float) -> str:
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.1f}{unit}" if unit else f"{number:.0f}"
        number /= 1000
    return f"{number:.1f}T"
