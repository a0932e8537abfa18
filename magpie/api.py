"""The commands about a run, for Python: they return results where the command prints tables.

Each takes a `Run` or its folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from magpie.data.select import compare_filters, refilter
from magpie.figures.status import status as status_of
from magpie.recipe.loading import load_filter
from magpie.runs.kept import RunRows
from magpie.runs.run import RECIPE, Run
from magpie.runs.verify import verify as problems_of

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.data.select import FilterComparison, Refiltered, RowSource
    from magpie.figures.status import Status
    from magpie.publish.formats import Format
    from magpie.recipe import Filter


def status(run: Run | str | Path) -> Status:
    """How far a run has come: rows, rejections and tokens, step by step. Raises RunError when there is no run."""
    return status_of(_open(run))


def verify(run: Run | str | Path) -> list[str]:
    """The problems of a run, each in one line that names the file; empty when every byte and row is right."""
    return problems_of(_open(run))


def filter(
    source: Run | str | Path,
    filter: Filter | str | Path,
    out: str | Path | None = None,
    *,
    explain: bool = False,
    split: str | None = None,
) -> Refiltered:
    """Apply another filter to a finished run, or to a dataset in files; write what it keeps to folder `out`.

    A dataset is a file (Parquet, JSON, CSV, .gz and .zst too) or a folder, of which one `split` is read: train, or else
    the first there is.
    `filter` is a Filter, a file, or the name of a filter that ships. Without `out` nothing is written. `explain` adds
    what each rule would lose alone, with examples. Raises FilterError, RecipeError, RunError or DamagedShardError.
    """
    return refilter(_rows(source, split), _load(filter), None if out is None else Path(out), explain=explain)


def compare(
    source: Run | str | Path,
    first: Filter | str | Path,
    second: Filter | str | Path,
    *,
    split: str | None = None,
) -> FilterComparison:
    """How many rows of a run or dataset two filters keep: both, one alone, neither. Raises what `filter` does."""
    return compare_filters(_rows(source, split), _load(first), _load(second))


def export(run: Run | str | Path, format: Format, out: str | Path) -> int:
    """Write the final dataset to a .jsonl or .parquet file, in a format that trainers read. Returns the number of rows.

    `format` is messages, sharegpt, alpaca or preference. Raises RunError while the build is unfinished.
    """
    from magpie.publish.formats import export as export_run

    return export_run(_open(run), format=format, out=Path(out))


def show(
    run: Run | str | Path,
    row: str | int | None = None,
    *,
    n: int = 5,
    seed: int = 0,
    rejected: bool = False,
    console: Console | None = None,
) -> None:
    """Print rows to read: `n` kept ones, the rejected ones by reason, or one `row` in full, by its id or position."""
    from rich.console import Console

    from magpie.report.show import show_rejected, show_row, show_rows

    opened, console = _open(run), console or Console(emoji=False)
    if row is not None:
        show_row(opened, str(row), console)
    elif rejected:
        show_rejected(opened, console)
    else:
        show_rows(opened, console, n=n, seed=seed)


def _open(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else Run.open(run)


def _load(filter: Filter | str | Path) -> Filter:
    return load_filter(filter) if isinstance(filter, str | Path) else filter


def _rows(source: Run | str | Path, split: str | None = None) -> RowSource:
    """The rows of a run, or of a dataset that belongs to no run."""
    if isinstance(source, Run):
        return RunRows(source)
    if (Path(source) / RECIPE).is_file():
        return RunRows(Run.open(source))
    from magpie.data.published import Published

    return Published(source, split)
