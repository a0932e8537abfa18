"""Datasets beside each other, and filters over one dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from magpie.api.datasets import load, rows_of
from magpie.recipe import Filter
from magpie.runs.run import Run

if TYPE_CHECKING:
    from magpie.data.select import FilterComparison
    from magpie.figures.comparison import Comparison
    from magpie.neighbors.vectors import ProgressCallback


def compare(
    source: Run | str | Path,
    *others: Run | Filter | str | Path,
    embedder: str | None = None,
    threshold: float = 0.05,
    covers: float = 0.6,
    sample: int = 5_000,
    seed: int = 0,
    price: float | None = None,
    verbs: bool = True,
    split: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> Comparison | FilterComparison:
    """Compare datasets with the first of them: what each is, what they share, what differs beyond noise.

    Each is a run that is finished, the folder of a dataset, or a file of rows. Two instructions are near copies where
    the squared distance of their vectors is below `threshold`, and one covers another below `covers`. The vectors are
    those of `embedder`: by default those that the runs have, where all have them of one model, else the embedded
    embedder's, which are kept in the cache; "none" for none. Of each set at most `sample` rows are embedded, drawn by
    `seed`. `price` is what an hour of a GPU costs in dollars, or of the machine where there is none. `verbs` has spaCy
    parse instructions in English, where it is installed.

    With a dataset and two filters (each a Filter, its file, or the name of one that ships, where no dataset has that
    name), it is `compare_filters`. Raises RunError, ModelError, RecipeError and DamagedShardError.
    """
    if len(others) == 2 and all(_is_filter(each) for each in others):
        return compare_filters(source, *others, split=split)
    return compare_sets(
        [source, *(each for each in others if not isinstance(each, Filter))],
        embedder=embedder,
        threshold=threshold,
        covers=covers,
        sample=sample,
        seed=seed,
        price=price,
        verbs=verbs,
        on_progress=on_progress,
    )


def compare_sets(
    sources: list[Run | str | Path] | list[str],
    *,
    embedder: str | None = None,
    threshold: float = 0.05,
    covers: float = 0.6,
    sample: int = 5_000,
    seed: int = 0,
    price: float | None = None,
    verbs: bool = True,
    on_progress: ProgressCallback | None = None,
) -> Comparison:
    """What `compare` does with datasets, whatever their names."""
    from magpie.figures.comparison import compare_sets as compared
    from magpie.neighbors.vectors import no_progress

    return compared(
        sources,
        embedder=None if embedder == "none" else embedder,
        with_vectors=embedder != "none",
        threshold=threshold,
        covers=covers,
        sample=sample,
        seed=seed,
        price=price,
        with_verbs=verbs,
        on_progress=on_progress or no_progress,
    )


def compare_filters(
    source: Run | str | Path,
    first: Run | Filter | str | Path,
    second: Run | Filter | str | Path,
    *,
    split: str | None = None,
) -> FilterComparison:
    """How many rows of a run or dataset two filters keep: both, one alone, neither. Raises what `filter` does."""
    from magpie.data.select import compare_filters as compared

    return compared(rows_of(source, split), load(first), load(second))


def _is_filter(named: Run | Filter | str | Path) -> bool:
    """Whether this is a filter, and no dataset."""
    from magpie import shipped

    if isinstance(named, Filter | Run):
        return isinstance(named, Filter)
    path = Path(named)
    return path.suffix in {".yaml", ".yml"} or (not path.exists() and str(named) in shipped.names("filters"))
