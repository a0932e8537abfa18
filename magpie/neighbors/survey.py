"""What is known of each vector's neighbours: how near the nearest is, which it is, and how many are within reach."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from magpie.neighbors.cells import Cells, Recall, choose_probes, search_cells
from magpie.neighbors.exact import Best, all_nearest, near_pairs
from magpie.neighbors.vectors import (
    Distances,
    Positions,
    UnitVectors,
    Watch,
    pair_distances,
    twins,
    unwatched,
)

Search = Literal["exact", "approximate"]

PAIR_RECALL = 0.9995
NEAREST_RECALL = 0.95


@dataclass(frozen=True, slots=True)
class Survey:
    """For each vector: the squared distance to its nearest other (NaN when alone), that one, and how many are near.

    `kind` numbers the distinct vectors, in the order in which they first come, and `others` says of each of them how
    many other distinct ones are near. `recall` says what an approximate search found of a sample.
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
    watch: Watch = unwatched,
) -> Survey:
    """Find each vector's nearest other, and count the others nearer than `threshold` (strictly).

    `pairs: approximate` counts what a search of cells finds; `nearest: approximate` names the nearest that one finds,
    or a nearer one among the near pairs: so a distance below the threshold is right whenever pairs are exact, and any
    other is at most too large. Of neighbours equally near, to within 1e-12, the first is named.

    Leaves in `units` the distinct vectors only.
    """
    first = twins(units)
    kinds, kind = np.unique(first, return_inverse=True)
    if len(kinds) < len(first):
        units.keep_only(kinds)
    weight = np.bincount(kind, minlength=len(kinds))
    best = Best.empty(len(kinds))
    count, others = np.zeros(len(kinds), np.int64), np.zeros(len(kinds), np.int64)
    found, recall = _pairs_and_nearest(units, threshold, best, pairs=pairs, nearest=nearest, watch=watch)
    for i, j, distances in found:
        np.add.at(count, i, weight[j])
        np.add.at(count, j, weight[i])
        np.add.at(others, np.concatenate([i, j]), 1)
        best.offer(i, j, distances)
        best.offer(j, i, distances)
    distance, other = all_nearest(units, watch=watch) if nearest == "exact" else _measured(units, best)
    every, named = distance[kind], kinds[other[kind]]
    _name_twins(every, named, first)
    if threshold > 0:
        count += weight - 1
    return Survey(every, named, count[kind], kind, others, recall)


def _measured(units: UnitVectors, best: Best) -> tuple[Distances, Positions]:
    """What is in `best`, measured by subtraction."""
    alone = best.nearest < 0
    at = np.arange(len(alone))
    nearest = np.where(alone, at, best.nearest)
    return np.where(alone, np.nan, pair_distances(units, at, nearest)), nearest


def _pairs_and_nearest(
    units: UnitVectors, threshold: float, best: Best, *, pairs: Search, nearest: Search, watch: Watch
) -> tuple[Iterable[tuple[Positions, Positions, Distances]], Recall | None]:
    """The near pairs, and into `best` the nearest neighbours where those are looked for in cells."""
    if pairs == nearest == "exact" or len(units) < 2:
        return near_pairs(units, threshold, watch=watch), None
    cells = Cells.of(units, watch=watch)
    watch("choosing how many cells to look at", 0, 1)
    recall = choose_probes(
        units,
        cells,
        threshold,
        pairs=PAIR_RECALL if pairs == "approximate" else None,
        nearest=NEAREST_RECALL if nearest == "approximate" else None,
    )
    into = best if nearest == "approximate" else None
    if pairs == "approximate":
        return search_cells(units, cells, recall.probes, threshold=threshold, best=into, watch=watch), recall
    for _ in search_cells(units, cells, recall.probes, best=into, watch=watch):
        pass
    return near_pairs(units, threshold, watch=watch), recall


def _name_twins(distance: Distances, nearest: Positions, first: Positions) -> None:
    """Gives vectors that have twins distance 0 and the first twin. Changes `distance` and `nearest`."""
    later = np.flatnonzero(first != np.arange(len(first)))
    nearest[later], distance[later] = first[later], 0
    firsts, at = np.unique(first[later], return_index=True)
    nearest[firsts], distance[firsts] = later[at], 0
