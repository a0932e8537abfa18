"""Rows as Embedding Atlas takes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from magpie.runs.opened import open_dataset
from magpie.runs.run import Run, is_run
from magpie.storage import open_storage

if TYPE_CHECKING:
    from magpie.neighbors.vectors import ProgressCallback
    from magpie.publish.atlas_rows import AtlasRows


def atlas_rows(
    source: Run | str | Path,
    *,
    most: int = 20_000,
    seed: int = 0,
    embedder: str = "demo-embedder",
    on_progress: ProgressCallback | None = None,
) -> AtlasRows:
    """The rows of a run or a dataset with places on a map and neighbours: `table` has them.

    A run's own vectors are taken; a dataset, and a run without vectors, gets those of `embedder`. Raises RunError,
    ModelError, DamagedShardError.
    """
    from magpie.neighbors.vectors import no_progress
    from magpie.publish.atlas_rows import rows_of_dataset, rows_of_run

    report = on_progress or no_progress
    run = source if isinstance(source, Run) else Run.open(source) if is_run(open_storage(source)) else None
    if run is not None and run.step_adding("embedding") is not None:
        return rows_of_run(run, most=most, seed=seed, on_progress=report)
    dataset = open_dataset(source if run is None else run)
    return rows_of_dataset(dataset, most=most, seed=seed, embedder=embedder, on_progress=report)
