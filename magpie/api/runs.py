"""Runs and datasets: how far they are, whether they are whole, and their rows to read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from magpie.errors import RunError
from magpie.figures.status import status as status_of
from magpie.runs.opened import as_run
from magpie.runs.run import Run, is_run
from magpie.runs.verify import verify as problems_of
from magpie.storage import open_storage

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.figures.status import Status


def status(run: Run | str | Path) -> Status:
    """How far a run has come: rows, rejections and tokens, step by step; and whether its rows are all alike.

    Raises RunError when there is no run.
    """
    from dataclasses import replace

    from magpie.errors import DamagedShardError
    from magpie.figures.collapse import collapse_of

    opened = as_run(run)
    found = status_of(opened)
    try:
        return replace(found, collapse=collapse_of(opened))
    except DamagedShardError:
        return found  # it names the shard by itself


def verify(source: Run | str | Path) -> list[str]:
    """The problems of a run or of the dataset in a folder, each in one line that names the file.

    Empty when every byte and row is right. Raises RunError where there is neither.
    """
    if not isinstance(source, Run) and not is_run(open_storage(source)):
        from magpie.data.checking import problems_of_dataset
        from magpie.data.dataset import DatasetFiles

        if Path(source).is_dir():
            return problems_of_dataset(DatasetFiles(open_storage(source)))
    return problems_of(as_run(source))


def show(
    run: Run | str | Path,
    row: str | int | None = None,
    *,
    n: int = 5,
    seed: int = 0,
    rejected: bool = False,
    console: Console | None = None,
) -> None:
    """Print rows to read: `n` kept ones, the rejected ones by reason, or one `row` in full, by its id or position.

    `run` may also be the folder of a dataset, such as one that a filter wrote: it has kept rows only.
    """
    from magpie.report.show import show_rejected, show_row, show_rows
    from magpie.terminal import new_console

    console = console or new_console()
    if not isinstance(run, Run) and not is_run(open_storage(run)):
        _show_dataset(Path(run), row, n=n, seed=seed, rejected=rejected, console=console)
        return
    opened = as_run(run)
    if row is not None:
        show_row(opened, str(row), console)
    elif rejected:
        show_rejected(opened, console)
    else:
        show_rows(opened, console, n=n, seed=seed)


def _show_dataset(
    folder: Path, row: str | int | None, *, n: int, seed: int, rejected: bool, console: Console
) -> None:
    from magpie.report.show_dataset import show_dataset_row, show_dataset_rows
    from magpie.runs.opened import open_dataset

    dataset = open_dataset(folder)
    if rejected:
        raise RunError(f"{folder} is a dataset, which holds kept rows only; give the folder of its run")
    if row is not None:
        show_dataset_row(dataset, str(row), console)
    else:
        show_dataset_rows(dataset, console, n=n, seed=seed)
