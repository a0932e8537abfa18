"""For each vector: how near its nearest other is, which one that is, and how many others are near."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from magpie.neighbors.cells import Cells, Recall, choose_probes, search_cells
from magpie.neighbors.exact import Best, all_nearest, near_pairs
from magpie.neighbors.vectors import (
    Distances,
    Pairs,
    Positions,
    ProgressCallback,
    UnitVectors,
    first_occurrences,
    no_progress,
    pair_distances,
)

Search = Literal["exact", "approximate"]

PAIR_RECALL = 0.9995
NEAREST_RECALL = 0.95


@dataclass(frozen=True, slots=True)
class Survey:
    """For each vector: the squared distance to its nearest other (NaN when alone), its position, how many are near.

    `kind` gives each vector the number of its distinct vector, counted in the order in which they first come. `others`
    has one entry per distinct vector: how many other distinct ones are near. `recall` is that of an approximate search,
    measured on a sample; None where all of it was exact.
    """

    distance: Distances
    nearest: Positions
    count: Positions
    kind: Positions
    others: Positions
    recall: Recall | None


def survey(
    units: UnitVectors,
    threshold: float,
    *,
    pairs: Search = "exact",
    nearest: Search = "exact",
    on_progress: ProgressCallback = no_progress,
) -> Survey:
    """Find each vector's nearest other, and count the others nearer than `threshold` (strictly).

    With `pairs: approximate` the count may miss some. With `nearest: approximate` the nearest is the best of what the
    cells gave and of the near pairs: where pairs are exact, a distance below the threshold is right, and any other is
    at most too large. Of neighbours equally near, to within 1e-12, the first is named.

    Leaves only the distinct vectors in `units`.
    """
    # Equal vectors are searched once. A thousand copies of one text would be half a million near pairs.
    first = first_occurrences(units)
    kinds, kind = np.unique(first, return_inverse=True)
    if len(kinds) < len(first):
        units.keep_only(kinds)
    copies = np.bincount(kind, minlength=len(kinds))
    best = Best.empty(len(kinds))
    count, others = np.zeros(len(kinds), np.int64), np.zeros(len(kinds), np.int64)
    tiles, recall = _pairs_and_nearest(
        units, threshold, best, pairs=pairs, nearest=nearest, on_progress=on_progress
    )
    for i, j, distances in tiles:
        np.add.at(count, i, copies[j])
        np.add.at(count, j, copies[i])
        np.add.at(others, np.concatenate([i, j]), 1)
        best.offer(i, j, distances)
        best.offer(j, i, distances)
    if nearest == "exact":
        distance, other = all_nearest(units, on_progress=on_progress)
    else:
        distance, other = _measured(units, best)
    # From distinct vectors back to all of them.
    every_distance, every_nearest = distance[kind], kinds[other[kind]]
    _set_copies(every_distance, every_nearest, first)
    if threshold > 0:  # a distance of 0 is below it: a vector's other copies are near as well
        count += copies - 1
    return Survey(every_distance, every_nearest, count[kind], kind, others, recall)


def _measured(units: UnitVectors, best: Best) -> tuple[Distances, Positions]:
    """The neighbours in `best`, with distances by subtraction; NaN and itself for a vector that has none."""
    alone = best.nearest < 0
    at = np.arange(len(alone))
    nearest = np.where(alone, at, best.nearest)
    return np.where(alone, np.nan, pair_distances(units, at, nearest)), nearest


def _pairs_and_nearest(
    units: UnitVectors,
    threshold: float,
    best: Best,
    *,
    pairs: Search,
    nearest: Search,
    on_progress: ProgressCallback,
) -> tuple[Iterable[Pairs], Recall | None]:
    """The near pairs. An approximate search for the nearest fills `best`, at the latest while pairs are read."""
    if pairs == nearest == "exact" or len(units) < 2:
        return near_pairs(units, threshold, on_progress=on_progress), None
    cells = Cells.of(units, on_progress=on_progress)
    on_progress("choosing how many cells to look at", 0, 1)
    recall = choose_probes(
        units,
        cells,
        threshold,
        pairs=PAIR_RECALL if pairs == "approximate" else None,
        nearest=NEAREST_RECALL if nearest == "approximate" else None,
    )
    into = best if nearest == "approximate" else None
    if pairs == "approximate":
        search = search_cells(
            units, cells, recall.probes, threshold=threshold, best=into, on_progress=on_progress
        )
        return search, recall
    # Read to its end for what it offers `best`; without a threshold it gives no pairs.
    for _ in search_cells(units, cells, recall.probes, best=into, on_progress=on_progress):
        pass
    return near_pairs(units, threshold, on_progress=on_progress), recall


def _set_copies(distance: Distances, nearest: Positions, first: Positions) -> None:
    """Give vectors that have exact copies distance 0, and the first copy as nearest. Changes both arrays."""
    later = np.flatnonzero(first != np.arange(len(first)))
    nearest[later], distance[later] = first[later], 0
    # The first of its kind cannot name itself: its nearest is the second.
    firsts, at = np.unique(first[later], return_index=True)
    nearest[firsts], distance[firsts] = later[at], 0
