"""Approximate near pairs and nearest neighbours, by an inverted file: vectors are grouped into cells.

A vector belongs to the cell whose centre is nearest, and is compared with the members of the few cells nearest to it
(its probes). Recall is measured on samples whose neighbours are searched exactly, and the number of probes is the
smallest that reaches the recall asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from magpie.neighbors.exact import Best, PairFinder, near_in_tile
from magpie.neighbors.vectors import (
    Floats,
    Pairs,
    Positions,
    ProgressCallback,
    UnitVectors,
    in_parallel,
    no_progress,
)

MOST_PROBES = 32
_BLOCK = 4096
_PAIR_BLOCK = 1024
_BATCH = 2**17
_MOST_CELLS = 2**16
_POINTS_PER_CENTRE = 32
_ROUNDS = 8
_NEAREST_SAMPLE = 1024
_PAIR_SAMPLE = 16_384
_EXCLUDED = -2.0
"""Put where a vector meets itself: below the product of any two vectors of length 1."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Which cells each vector is near: `probes` (vectors, MOST_PROBES or fewer), the nearest cell first.

    `members` holds the positions of all vectors cell by cell, rising within each; `starts` says where each cell begins.
    """

    probes: np.ndarray[Any, np.dtype[np.uint16]]  # hence no more than 2**16 cells
    members: Positions
    starts: Positions

    @classmethod
    def of(
        cls, units: UnitVectors, *, cells: int | None = None, on_progress: ProgressCallback = no_progress
    ) -> Cells:
        """Cells by k-means on a sample: `cells` of them, or 2 sqrt(vectors) where it is None."""
        import torch

        cells = min(len(units), cells or max(1, int(2 * len(units) ** 0.5)), _MOST_CELLS)
        centres = torch.from_numpy(_centres(units, cells, on_progress))
        probes = np.empty((len(units), min(MOST_PROBES, cells)), np.uint16)

        def place(start: int) -> None:
            products = torch.from_numpy(units[start : start + _BLOCK]) @ centres.T
            probes[start : start + _BLOCK] = products.topk(probes.shape[1], dim=1).indices.numpy()

        for number, _ in enumerate(in_parallel(place, range(0, len(units), _BLOCK), rows=len(units))):
            on_progress("placing vectors in cells", min((number + 1) * _BLOCK, len(units)), len(units))
        members = np.argsort(probes[:, 0], kind="stable")
        starts = np.searchsorted(probes[members, 0], np.arange(cells + 1))
        return cls(probes, members, starts)

    def rank(self, rows: Positions, others: Positions) -> Positions:
        """How many probes each row needs to reach the other vector's cell; one more than there are where none does."""
        matches = self.probes[rows] == self.probes[others, 0][:, None]
        return np.asarray(np.where(matches.any(axis=1), matches.argmax(axis=1), matches.shape[1]) + 1)


@dataclass(frozen=True, slots=True)
class Recall:
    """The number of probes chosen, and the shares of near pairs and of nearest neighbours a sample found with it.

    A share is None where it was not asked for, or the sample held too few.
    """

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
    on_progress: ProgressCallback = no_progress,
) -> Iterator[Pairs]:
    """Near pairs between vectors and the members of their first `probes` cells: i < j, each once, with distances.

    With `threshold` None there are no pairs. `best` is offered each vector's nearest in each of those cells that has at
    least two members, at its distance or slightly more: by the most that a float32 product can be off.
    """
    # In batches, since a million vectors with 32 probes each are a large sort.
    for begin in range(0, len(units), _BATCH):
        # The probes of the batch are turned round: for each cell, the vectors that probe it. They meet its members in
        # one matrix product, some thirty times as fast as going through the cells vector by vector.
        batch = cells.probes[begin : begin + _BATCH, :probes]
        order = np.argsort(batch, axis=None, kind="stable")
        bounds = np.searchsorted(batch.ravel()[order], np.arange(len(cells.starts)))
        queries = order // batch.shape[1] + begin

        def visit(cell: int) -> tuple[Pairs | None, Pairs | None]:
            rows = queries[bounds[cell] : bounds[cell + 1]]  # noqa: B023
            return _visit(
                units, cells, cell, rows, probes=probes, threshold=threshold, wants_nearest=best is not None
            )

        for pairs, nearest in in_parallel(visit, range(len(cells.starts) - 1), rows=len(units)):
            if best is not None and nearest is not None:
                # Offered both ways: the neighbour may not probe this vector's cell.
                rows, others, distances = nearest
                best.offer(rows, others, distances)
                best.offer(others, rows, distances)
            if pairs is not None and len(pairs[0]):
                yield pairs
        on_progress("comparing within cells", min(begin + _BATCH, len(units)), len(units))


def _visit(
    units: UnitVectors,
    cells: Cells,
    cell: int,
    rows: Positions,
    *,
    probes: int,
    threshold: float | None,
    wants_nearest: bool,
) -> tuple[Pairs | None, Pairs | None]:
    """The vectors `rows` against the members of one cell: near pairs, and each one's nearest member."""
    import torch

    members = cells.members[cells.starts[cell] : cells.starts[cell + 1]]
    if not len(rows) or not len(members):
        return None, None
    products = (torch.from_numpy(units[rows]) @ torch.from_numpy(units[members]).T).numpy()
    # Rows that belong to the cell meet themselves. Members rise, so a binary search finds their columns.
    own = np.flatnonzero(cells.probes[rows, 0] == cell)
    products[own, np.searchsorted(members, rows[own])] = _EXCLUDED
    pairs = None
    if threshold is not None:
        pairs = _near(units, cells, (rows, members), products, probes=probes, threshold=threshold)
    # The only member of a cell would be named its own neighbour.
    if not wants_nearest or len(members) < 2:
        return pairs, None
    first = products.argmax(axis=1)
    # Rounded up: a distance below the threshold must not be named unless it is one.
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
) -> Pairs:
    """The near pairs of a tile (rows, members) of one cell, those that another cell gives left out."""
    rows, members = tile
    bar = 1 - threshold / 2 - _rounding(units)
    row, column = np.nonzero(products > bar)
    i, j, distances = near_in_tile(units, rows, members, (rows[row], members[column]), threshold)
    # A pair that either one's probes reach is given once: by the earlier vector's, or else by the later one's.
    is_given_here = (i < j) | ((i > j) & (cells.rank(j, i) > probes))
    i, j, distances = i[is_given_here], j[is_given_here], distances[is_given_here]
    return np.minimum(i, j), np.maximum(i, j), distances


def _rounding(units: UnitVectors) -> float:
    """More than the float32 product of two vectors can be off: twice its bound, width x 2**-23."""
    return (units.width + 8) * 2.0**-22


def choose_probes(
    units: UnitVectors, cells: Cells, threshold: float, *, pairs: float | None, nearest: float | None
) -> Recall:
    """The fewest probes (1, 2, 4, ...) that reach these shares of near pairs and of nearest neighbours on a sample.

    None for a share means that it does not matter. The shares returned were measured on another sample.
    """
    # Not the seed of the centres' sample: vectors that the centres were fitted to lie nearer to them than others do.
    rng = np.random.default_rng(1)
    most = cells.probes.shape[1]
    pair_ranks = _pair_ranks(units, cells, threshold, rng) if pairs is not None else np.empty(0, np.int64)
    nearest_ranks = _nearest_ranks(units, cells, rng) if nearest is not None else np.empty(0, np.int64)
    # Every other rank chooses, the rest measure: a choice measured on its own sample would look better than it is.
    # Pairs get twice what their sample needs, because it holds few of them and what they need varies.
    probes = max(
        1 if pairs is None else 2 * _needed(pair_ranks[::2], pairs, most),
        1 if nearest is None else _needed(nearest_ranks[::2], nearest, most),
    )
    probes = min(probes, most)
    return Recall(
        probes,
        _share(pair_ranks[1::2], probes) if len(pair_ranks) > 1 else None,
        _share(nearest_ranks[1::2], probes) if len(nearest_ranks) > 1 else None,
    )


def _needed(ranks: Positions, share: float, most: int) -> int:
    """The fewest probes, doubled from 1 on, that reach this share of the ranks."""
    probes = 1
    while probes < most and len(ranks) and _share(ranks, probes) < share:
        probes *= 2
    return min(probes, most)


def _share(ranks: Positions, probes: int) -> float:
    return float((ranks <= probes).mean())


def _pair_ranks(units: UnitVectors, cells: Cells, threshold: float, rng: np.random.Generator) -> Positions:
    """For each near pair of a sample of vectors with any other: the fewest probes with which either finds the other."""
    sample = np.sort(rng.choice(len(units), min(_PAIR_SAMPLE, len(units)), replace=False))
    finder = PairFinder(units, threshold)

    def search(start: int) -> Pairs:
        columns = slice(start, min(start + _PAIR_BLOCK, len(units)))
        return finder.pairs(sample, columns, finder.new_buffer(len(sample) * (columns.stop - columns.start)))

    ranks = [
        np.minimum(cells.rank(i, j), cells.rank(j, i))
        for i, j, _ in in_parallel(search, range(0, len(units), _PAIR_BLOCK), rows=len(units))
    ]
    # Shuffled, since the caller divides them by turns and they come in the order of the vectors.
    return rng.permutation(np.concatenate([np.empty(0, np.int64), *ranks]))


def _nearest_ranks(units: UnitVectors, cells: Cells, rng: np.random.Generator) -> Positions:
    """For each of a sample of vectors: how many probes it needs to find its nearest neighbour."""
    import torch

    sample = rng.choice(len(units), min(_NEAREST_SAMPLE, len(units)), replace=False)
    queries = torch.from_numpy(units[sample])

    def search(start: int) -> tuple[Floats, Positions]:
        products = (queries @ torch.from_numpy(units[start : start + _BLOCK]).T).numpy()
        own = np.flatnonzero((sample >= start) & (sample < start + products.shape[1]))
        products[own, sample[own] - start] = _EXCLUDED
        first = products.argmax(axis=1)
        return products[np.arange(len(sample)), first], first + start

    best, nearest = np.full(len(sample), _EXCLUDED, np.float32), np.zeros(len(sample), np.int64)
    for products, others in in_parallel(search, range(0, len(units), _BLOCK), rows=len(units)):
        better = products > best
        best[better], nearest[better] = products[better], others[better]
    return cells.rank(sample, nearest)


def _centres(units: UnitVectors, cells: int, on_progress: ProgressCallback) -> Floats:
    """The centres of cells, of length 1: spherical k-means by FAISS on a sample, on a GPU where FAISS has one."""
    import faiss

    count = min(len(units), _POINTS_PER_CENTRE * cells)
    sample = np.sort(np.random.default_rng(0).choice(len(units), count, replace=False))
    on_progress("finding cells", 0, 1)
    on_gpu = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    kmeans = faiss.Kmeans(
        units.width,
        cells,
        niter=_ROUNDS,
        spherical=True,
        seed=1,
        gpu=on_gpu,
        # FAISS would warn of small cells, and draw a sample of its own from ours.
        min_points_per_centroid=1,
        max_points_per_centroid=_POINTS_PER_CENTRE,
    )
    kmeans.train(units[sample])
    return np.asarray(kmeans.centroids, np.float32)
