"""Datasets: made of files, filtered, put together, parted, explained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from magpie.data.select import refilter
from magpie.errors import RecipeError, RunError
from magpie.recipe.loading import load_filter
from magpie.runs.kept import RunRows
from magpie.runs.opened import as_run
from magpie.runs.run import Run, is_run
from magpie.storage import open_storage

if TYPE_CHECKING:
    from magpie.data.importing import Imported
    from magpie.data.merging import Merged
    from magpie.data.rouge import RougeResult
    from magpie.data.select import Refiltered, RowSource
    from magpie.data.splitting import Split
    from magpie.neighbors.vectors import ProgressCallback
    from magpie.recipe import Filter
    from magpie.runs.catalogue import Explanation


def import_dataset(
    source: str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    generator: str | None = None,
    license: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> Imported:
    """Make a dataset in the folder `out` of one that was made elsewhere; every verb reads it as one of magpie's own.

    `source` is a file, a folder of files (Parquet, JSON, CSV; .gz and .zst too) or ORG/NAME on the hub: a published
    Magpie dataset, ShareGPT, Alpaca, `messages`, or pairs of preference. `generator` and `license` are for rows that
    say nothing of them. Rows that are no conversation are left out; the result has the reasons. Raises RecipeError and
    RunError.
    """
    from magpie.data.importing import import_dataset as import_rows
    from magpie.neighbors.vectors import no_progress

    if is_run(open_storage(source)):
        raise RunError(f"{source} is a run: filter, export, merge and the others read its dataset as it is")
    return import_rows(
        source,
        Path(out),
        split=split,
        generator=generator,
        license=license,
        on_progress=on_progress or no_progress,
    )


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
    return refilter(rows_of(source, split), load(filter), None if out is None else Path(out), explain=explain)


def merge(
    sources: Sequence[Run | str | Path],
    out: str | Path,
    *,
    threshold: float = 0.05,
    embedder: str | None = "demo-embedder",
    on_progress: ProgressCallback | None = None,
) -> Merged:
    """Put datasets together in the folder `out`: runs, folders or files, in this order.

    A row goes out where its instruction is near one that is kept of an earlier dataset: their vectors by `embedder` are
    nearer than `threshold` (squared L2), or, without an embedder, they are the same. Where the ids of a dataset are
    those of others, its name comes before them. Each row has a `source`, a `generator` and a `license`. Raises RunError
    and ModelError.
    """
    from magpie.data.merging import merge as merge_rows
    from magpie.data.near import embedder_named
    from magpie.neighbors.vectors import no_progress
    from magpie.runs.opened import open_dataset

    return merge_rows(
        [open_dataset(source) for source in sources],
        Path(out),
        threshold=threshold,
        embedder=None if embedder is None else embedder_named(embedder),
        on_progress=on_progress or no_progress,
    )


def split(
    source: Run | str | Path,
    out: str | Path,
    *,
    test: float,
    seed: int = 0,
    threshold: float = 0.05,
    embedder: str | None = "demo-embedder",
    on_progress: ProgressCallback | None = None,
) -> Split:
    """Part a dataset into `out`/train and `out`/test, by `seed`, with no near instructions on two sides.

    `test` is the share of test rows. Near is meant as in `merge`. Raises RunError, ModelError.
    """
    from magpie.data.near import embedder_named
    from magpie.data.splitting import split as split_rows
    from magpie.neighbors.vectors import no_progress
    from magpie.runs.opened import open_dataset

    return split_rows(
        open_dataset(source),
        Path(out),
        test=test,
        seed=seed,
        threshold=threshold,
        embedder=None if embedder is None else embedder_named(embedder),
        on_progress=on_progress or no_progress,
    )


def columns(source: Run | str | Path | None = None) -> list[Explanation]:
    """Each column of a run or a dataset explained; without one, every column that any step may add.

    An unfinished run has the columns of its recipe. Raises RunError where there is no run and no dataset.
    """
    from magpie.runs.catalogue import explain_dataset, explain_everything, explain_run
    from magpie.runs.opened import open_dataset
    from magpie.runs.provenance import Provenance

    if source is None:
        return explain_everything()
    if isinstance(source, Run) or is_run(open_storage(source)):
        return explain_run(Provenance.of(as_run(source)))
    return explain_dataset(open_dataset(source))


def rouge(
    source: str | Path,
    *,
    against: Sequence[str | Path] = (),
    threshold: float = 0.7,
    averages: bool = False,
    out: str | Path | None = None,
    overwrite: bool = False,
    on_progress: ProgressCallback = lambda what, done, total: None,
) -> RougeResult:
    """Screen a dataset's instructions by ROUGE-L, as Self-Instruct does, after taking those of `against` as they are.

    An instruction is rejected when its F1 with an earlier one is above `threshold`. `averages` compares every pair, for
    the ten most similar of each and its mean. `out` takes a JSON object a line for each instruction. Raises RecipeError
    for what cannot be read, and RunError where `out` is there and not to `overwrite`.
    """
    from magpie.data.rouge import screen_files
    from magpie.escaping import as_json
    from magpie.storage.writing import make_folders, replacing

    if not 0 < threshold <= 1:
        raise RecipeError(f"a ROUGE-L threshold is above 0 and at most 1, not {threshold:g}")
    target = None if out is None else Path(out)
    if target is not None and target.exists() and not target.is_file():
        raise RunError(f"{target} is not a file that can be replaced; name another with --out")
    if target is not None and target.exists() and not overwrite:
        raise RunError(
            f"{target} is there already; replace it with --overwrite, or name another file with --out"
        )
    result = screen_files(
        str(source),
        against=[str(name) for name in against],
        threshold=threshold,
        averages=averages,
        on_progress=on_progress,
    )
    if target is not None:
        target = target.resolve()  # a link stays
        make_folders(target.parent)
        with replacing(target) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(f"{as_json(row)}\n" for row in result.rows())
    return result


def load(filter: Filter | Run | str | Path) -> Filter:
    """The filter itself, that of a file, or one that ships. Raises RecipeError and FilterError."""
    if isinstance(filter, Run):
        raise RecipeError(
            f"{filter.storage.location} is a run, where a filter is wanted; give a filter's file or name"
        )
    return load_filter(filter) if isinstance(filter, str | Path) else filter


def rows_of(source: Run | str | Path, split: str | None = None) -> RowSource:
    """The rows of a run, or of a dataset that belongs to no run."""
    if isinstance(source, Run):
        return RunRows(source)
    if is_run(open_storage(source)):
        return RunRows(Run.open(source))
    from magpie.data.published import Published

    return Published(source, split)
