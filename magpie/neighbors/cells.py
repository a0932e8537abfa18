"""Nearest neighbours and near pairs, looked for only where they are likely to be: an inverted file of cells.

Every vector is in the cell whose centre is nearest, and is compared with the members of the few cells nearest to it
(its probes). What that misses is measured on samples whose neighbours are found exactly, and the number of probes is
the smallest that misses little enough. Queries that probe one cell are compared with its members in one product, which
is some thirty times as fast as going through the lists query by query.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from magpie.neighbors.exact import Best, PairFinder, near_in_tile
from magpie.neighbors.vectors import (
    Distances,
    Floats,
    Positions,
    UnitVectors,
    Watch,
    in_parallel,
    unwatched,
)

MOST_PROBES = 32
_AT_ONCE = 4096
_BATCH = 2**17
_MOST_CELLS = 2**16
_POINTS_PER_CENTRE = 32
_ROUNDS = 8
_NEAREST_SAMPLE = 1024
_PAIR_SAMPLE = 16_384


@dataclass(frozen=True, slots=True)
class Cells:
    """Where each vector is: `probes` (vectors, MOST_PROBES or fewer), its cells from the nearest on.

    `members` holds all positions cell by cell, rising within each; `starts` says where in it each cell begins.
    """

    probes: np.ndarray[Any, np.dtype[np.uint16]]
    members: Positions
    starts: Positions

    @classmethod
    def of(cls, units: UnitVectors, *, cells: int | None = None, watch: Watch = unwatched) -> Cells:
        """Cells found by k-means on a sample; 2 sqrt(vectors) of them unless told otherwise."""
        import torch

        cells = min(len(units), cells or max(1, int(2 * len(units) ** 0.5)), _MOST_CELLS)
        centres = torch.from_numpy(_centres(units, cells, watch))
        probes = np.empty((len(units), min(MOST_PROBES, cells)), np.uint16)

        def place(start: int) -> None:
            products = torch.from_numpy(units[start : start + _AT_ONCE]) @ centres.T
            probes[start : start + _AT_ONCE] = products.topk(probes.shape[1], dim=1).indices.numpy()

        for number, _ in enumerate(in_parallel(place, range(0, len(units), _AT_ONCE), rows=len(units))):
            watch("placing vectors in cells", min((number + 1) * _AT_ONCE, len(units)), len(units))
        members = np.argsort(probes[:, 0], kind="stable")
        starts = np.searchsorted(probes[members, 0], np.arange(cells + 1))
        return cls(probes, members, starts)

    def rank(self, rows: Positions, others: Positions) -> Positions:
        """How many probes of a row it takes to come to another vector's cell; one more than there are when none do."""
        there = self.probes[rows] == self.probes[others, 0][:, None]
        return np.asarray(np.where(there.any(axis=1), there.argmax(axis=1), there.shape[1]) + 1)


@dataclass(frozen=True, slots=True)
class Recall:
    """What was found of what is there: shares, None where a sample held none; `probes` cells looked at for a vector."""

    probes: int
    pairs: float | None
    nearest: float | None


def search_cells(
    units: UnitVectors,
    cells: Cells,
    probes: int,
    *,
    threshold: float | None = None,
    best: Best | None = None,
    watch: Watch = unwatched,
) -> Iterator[tuple[Positions, Positions, Distances]]:
    """Near pairs between vectors and the members of their first `probes` cells: i < j, each once, and distances.

    With `threshold` None there are none of them. `best` is given each vector's nearest among those members, at its
    distance or a little more: what float32 products can be off.
    """
    for begin in range(0, len(units), _BATCH):
        batch = cells.probes[begin : begin + _BATCH, :probes]
        order = np.argsort(batch, axis=None, kind="stable")
        bounds = np.searchsorted(batch.ravel()[order], np.arange(len(cells.starts)))
        queries = order // batch.shape[1] + begin

        def visit(cell: int) -> tuple[Any, Any]:
            rows = queries[bounds[cell] : bounds[cell + 1]]  # noqa: B023
            return _visit(
                units, cells, cell, rows, probes=probes, threshold=threshold, nearest=best is not None
            )

        for pairs, nearest in in_parallel(visit, range(len(cells.starts) - 1), rows=len(units)):
            if best is not None and nearest is not None:
                rows, others, distances = nearest
                best.offer(rows, others, distances)
                best.offer(others, rows, distances)
            if pairs is not None and len(pairs[0]):
                yield pairs
        watch("comparing within cells", min(begin + _BATCH, len(units)), len(units))


def _visit(
    units: UnitVectors,
    cells: Cells,
    cell: int,
    rows: Positions,
    *,
    probes: int,
    threshold: float | None,
    nearest: bool,
) -> tuple[Any, Any]:
    """Some vectors against the members of one cell: near pairs, and each one's nearest."""
    import torch

    members = cells.members[cells.starts[cell] : cells.starts[cell + 1]]
    if not len(rows) or not len(members):
        return None, None
    products = (torch.from_numpy(units[rows]) @ torch.from_numpy(units[members]).T).numpy()
    inside = np.flatnonzero(cells.probes[rows, 0] == cell)
    products[inside, np.searchsorted(members, rows[inside])] = -2
    pairs = (
        None
        if threshold is None
        else _near(units, cells, (rows, members), products, probes=probes, threshold=threshold)
    )
    if not nearest or len(members) < 2:
        return pairs, None
    first = products.argmax(axis=1)
    distances = 2 - 2 * products[np.arange(len(rows)), first].astype(np.float64) + 2 * _rounding(units)
    return pairs, (rows, members[first], distances)


def _near(
    units: UnitVectors,
    cells: Cells,
    tile: tuple[Positions, Positions],
    products: Floats,
    *,
    probes: int,
    threshold: float,
) -> tuple[Positions, Positions, Distances]:
    rows, members = tile
    bar = 1 - threshold / 2 - _rounding(units)
    row, column = np.nonzero(products > bar)
    i, j, distances = near_in_tile(units, rows, members, (rows[row], members[column]), threshold)
    # A pair that either one's probes come to is given once: by the earlier one's, or else by the later one's.
    mine = (i < j) | ((i > j) & (cells.rank(j, i) > probes))
    i, j, distances = i[mine], j[mine], distances[mine]
    return np.minimum(i, j), np.maximum(i, j), distances


def _rounding(units: UnitVectors) -> float:
    """More than a product of two of them in float32 can be off: twice its bound, width x 2**-23."""
    return (units.width + 8) * 2.0**-22


def choose_probes(
    units: UnitVectors, cells: Cells, threshold: float, *, pairs: float | None, nearest: float | None
) -> Recall:
    """The fewest probes (1, 2, 4, ...) that reach the wanted shares of pairs and of nearest neighbours on a sample.

    A share that is None is not asked for. Pairs get twice the probes that the sample needs: it holds few of the pairs,
    and what they need varies. The shares given back are those of another sample, which had no say.
    """
    rng = np.random.default_rng(
        1
    )  # not the seed of the centres: they lie near the vectors they were found from
    most = cells.probes.shape[1]
    near = _pair_ranks(units, cells, threshold, rng) if pairs is not None else np.empty(0, np.int64)
    first = _nearest_ranks(units, cells, rng) if nearest is not None else np.empty(0, np.int64)
    probes = max(
        1 if pairs is None else 2 * _needed(near[::2], pairs, most),
        1 if nearest is None else _needed(first[::2], nearest, most),
    )
    probes = min(probes, most)
    return Recall(
        probes,
        _share(near[1::2], probes) if len(near) > 1 else None,
        _share(first[1::2], probes) if len(first) > 1 else None,
    )


def _needed(ranks: Positions, share: float, most: int) -> int:
    """The fewest probes, doubled from 1 on, within which so large a share of the ranks is."""
    probes = 1
    while probes < most and len(ranks) and _share(ranks, probes) < share:
        probes *= 2
    return min(probes, most)


def _share(ranks: Positions, probes: int) -> float:
    return float((ranks <= probes).mean())


def _pair_ranks(units: UnitVectors, cells: Cells, threshold: float, rng: np.random.Generator) -> Positions:
    """For the near pairs of a sample of vectors: how many probes the one that is better placed needs."""
    sample = np.sort(rng.choice(len(units), min(_PAIR_SAMPLE, len(units)), replace=False))
    finder = PairFinder(units, threshold)

    def search(start: int) -> tuple[Positions, Positions, Distances]:
        columns = slice(start, min(start + _AT_ONCE // 4, len(units)))
        return finder.pairs(sample, columns, finder.room(len(sample) * (columns.stop - columns.start)))

    ranks = [
        np.minimum(cells.rank(i, j), cells.rank(j, i))
        for i, j, _ in in_parallel(search, range(0, len(units), _AT_ONCE // 4), rows=len(units))
    ]
    return rng.permutation(np.concatenate([np.empty(0, np.int64), *ranks]))


def _nearest_ranks(units: UnitVectors, cells: Cells, rng: np.random.Generator) -> Positions:
    """For a sample of vectors: how many probes it takes to come to the nearest neighbour."""
    import torch

    sample = rng.choice(len(units), min(_NEAREST_SAMPLE, len(units)), replace=False)
    queries = torch.from_numpy(units[sample])

    def search(start: int) -> tuple[Any, Any]:
        products = (queries @ torch.from_numpy(units[start : start + _AT_ONCE]).T).numpy()
        inside = np.flatnonzero((sample >= start) & (sample < start + products.shape[1]))
        products[inside, sample[inside] - start] = -2
        first = products.argmax(axis=1)
        return products[np.arange(len(sample)), first], first + start

    best, nearest = np.full(len(sample), -2, np.float32), np.zeros(len(sample), np.int64)
    for products, others in in_parallel(search, range(0, len(units), _AT_ONCE), rows=len(units)):
        better = products > best
        best[better], nearest[better] = products[better], others[better]
    return cells.rank(sample, nearest)


def _centres(units: UnitVectors, cells: int, watch: Watch) -> Floats:
    """The centres of cells, of length 1: spherical k-means by FAISS on a sample, on a GPU where FAISS has one."""
    import faiss

    count = min(len(units), _POINTS_PER_CENTRE * cells)
    sample = np.sort(np.random.default_rng(0).choice(len(units), count, replace=False))
    watch("finding cells", 0, 1)
    on_gpu = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    search = faiss.Kmeans(
        units.width,
        cells,
        niter=_ROUNDS,
        spherical=True,
        seed=1,
        gpu=on_gpu,
        min_points_per_centroid=1,
        max_points_per_centroid=_POINTS_PER_CENTRE,
    )
    search.train(units[sample])
    return np.asarray(search.centroids, np.float32)
