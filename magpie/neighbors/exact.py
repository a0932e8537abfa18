"""Every near pair, and every nearest neighbour, by comparing all vectors with all others.

Sketches rule out most pairs (`sketch.py`). The pairs that are left are measured one by one, by subtraction. Where a
tile holds many of them, the whole tile is measured in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from magpie.neighbors.sketch import Sketch, as_products, ordered_bar
from magpie.neighbors.vectors import (
    Distances,
    Floats,
    Pairs,
    Positions,
    ProgressCallback,
    UnitVectors,
    in_parallel,
    nearer,
    no_progress,
    pair_distances,
    tile_distances,
)

_ROWS, _COLUMNS = 1024, 2048
_MANY = 1 / 64
_TIE = 1e-12
_NO_CANDIDATES = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


class PairFinder:
    """Finds the pairs of vectors that are nearer than `threshold` (strictly), tile by tile."""

    def __init__(self, units: UnitVectors, threshold: float, *, quick: bool | None = None) -> None:
        self._units, self._threshold = units, threshold
        self._sketch = Sketch.of(units, near=threshold, quick=quick)
        # The bits of bfloat16 are in order above zero only. A bar at or below zero needs float32.
        if threshold / 2 + self._sketch.slack >= 1:
            self._sketch = Sketch.of(units, near=threshold, quick=False)
        self._bar = 1 - threshold / 2 - self._sketch.slack

    def new_buffer(self, products: int = _ROWS * _COLUMNS) -> Any:
        """Memory for `pairs` to work on tiles of at most so many pairs. Threads must not share one."""
        return self._sketch.new_buffer(products)

    def pairs(self, rows: slice | Positions, columns: slice, buffer: Any) -> Pairs:
        """Positions i < j of the near pairs between rows and columns, and their distances.

        A distance is by subtraction, or within 1e-12 of it.
        """
        codes = self._sketch.products(rows, columns, buffer)
        limit = ordered_bar(self._bar, codes.dtype)
        # Most columns hold no candidate. Finding them by their maximum is much quicker than a search of every entry.
        busy = np.flatnonzero(codes.max(axis=0) > limit) if codes.size else np.empty(0, np.int64)
        row, column = np.nonzero(codes[:, busy] > limit)
        i, j = _positions(row, rows), busy[column] + columns.start
        # A tile on the diagonal holds each pair twice, and each vector with itself.
        i, j, distances = near_in_tile(self._units, rows, columns, (i[i < j], j[i < j]), self._threshold)
        # Once more, since a tile measured as a whole gives all of its near pairs, not only the candidates.
        once = i < j
        return i[once], j[once], distances[once]


def near_in_tile(
    units: UnitVectors,
    rows: slice | Positions,
    columns: slice | Positions,
    candidates: tuple[Positions, Positions],
    threshold: float,
) -> Pairs:
    """The near pairs among the candidates, with distances; or all near pairs of the tile, where candidates are many.

    The tile is all of rows against all of columns. No near pair that the caller wants may lack from the candidates.
    """
    i, j = candidates
    row_count, column_count = (_size(part) for part in (rows, columns))
    # Subtraction copies both vectors of a pair. From one pair in 64 on, one product of the whole tile is quicker.
    if len(i) <= _MANY * row_count * column_count:
        distances = pair_distances(units, i, j)
        near = distances < threshold
        return i[near], j[near], distances[near]
    a, b = units[rows], units[columns]
    table = tile_distances(a, b)
    row, column = np.nonzero(nearer(table, a, b, threshold))
    return _positions(row, rows), _positions(column, columns), np.maximum(table[row, column], 0)


def near_pairs(
    units: UnitVectors,
    threshold: float,
    *,
    quick: bool | None = None,
    on_progress: ProgressCallback = no_progress,
) -> Iterator[Pairs]:
    """Every pair of vectors nearer than `threshold` (strictly), tile by tile: positions i < j and distances.

    A distance is by subtraction, or within 1e-12 of it. Memory: the sketches, and a few tiles.
    """
    finder = PairFinder(units, threshold, quick=quick)

    def search(start: int) -> list[Pairs]:
        buffer = finder.new_buffer()
        return [finder.pairs(rows, columns, buffer) for rows, columns in _tiles(start, len(units))]

    starts = range(0, len(units), _ROWS)
    for number, tiles in enumerate(in_parallel(search, starts, rows=len(units))):
        yield from (pairs for pairs in tiles if len(pairs[0]))
        on_progress("comparing all pairs", *_tiles_done(number + 1, len(starts)))


def all_nearest(
    units: UnitVectors, *, quick: bool | None = None, on_progress: ProgressCallback = no_progress
) -> tuple[Distances, Positions]:
    """The squared distance from each vector to its nearest other, by subtraction, and that one's position.

    Of neighbours equally near, to within 1e-12, the first is named. A vector that is alone gets NaN, and itself.
    """
    best = Best.empty(len(units))
    if len(units) > 1:
        # With all dimensions: products are compared with each other here, so they must not be too large either.
        sketch = Sketch.of(units, quick=quick)
        search = _NearestSearch(units, sketch)
        for pairs in search.run(on_progress):
            best.offer(*pairs)
        _search_in_float64(units, search.missed(best), best)
        # Some distances come from products. All are measured again, so that one rule holds for all.
        best.distance[:] = pair_distances(units, np.arange(len(units)), best.nearest)
    else:
        best.nearest[:] = np.arange(len(units))
        best.distance[:] = np.nan
    return best.distance, best.nearest


@dataclass(frozen=True, slots=True)
class Best:
    """The nearest neighbour of each vector so far: its squared distance, and its position (-1 before there is one)."""

    distance: Distances
    nearest: Positions

    @classmethod
    def empty(cls, count: int) -> Best:
        """No neighbour yet, for `count` vectors."""
        return cls(np.full(count, np.inf), np.full(count, -1, np.int64))

    def offer(self, rows: Positions, others: Positions, distances: Distances) -> None:
        """Take each neighbour that is nearer than the best so far, or as near and earlier. Rows may repeat."""
        # Most offers are farther than what a row has, and need no sorting. Twice the tie, as a row's offers may be tied
        # with its nearest one, and that with the best so far; and a little more for the rounding of these sums.
        may_count = distances <= self.distance[rows] + 3 * _TIE
        rows, others, distances = rows[may_count], others[may_count], distances[may_count]
        if not len(rows):
            return
        # Each row's offers side by side, its nearest first.
        order = np.lexsort((others, distances, rows))
        rows, others, distances = rows[order], others[order], distances[order]
        is_first = np.r_[True, rows[1:] != rows[:-1]]
        group = np.cumsum(is_first) - 1
        # Distances that differ by less than rounding are equal, and of equals the lowest position is named: the result
        # must not depend on which tile was measured how.
        tied = distances <= distances[is_first][group] + _TIE
        lowest = np.minimum.reduceat(np.where(tied, others, len(self.nearest)), np.flatnonzero(is_first))
        rows, distances = rows[is_first], distances[is_first]
        is_nearer = distances < self.distance[rows] - _TIE
        is_earlier = (distances <= self.distance[rows] + _TIE) & (lowest < self.nearest[rows])
        taken = is_nearer | is_earlier
        self.nearest[rows[taken]] = lowest[taken]
        self.distance[rows[taken]] = np.minimum(distances, self.distance[rows])[taken]


class _NearestSearch:
    """Finds, by sketches of all dimensions, the few vectors that can be each vector's nearest, and measures them.

    `_reached` is the largest product of each vector's sketch with another so far. A neighbour whose product is lower by
    more than twice the slack is not the nearest.
    """

    def __init__(self, units: UnitVectors, sketch: Sketch) -> None:
        self._units, self._sketch = units, sketch
        # Threads read it while others raise it. An old value is lower, which only leaves more to measure.
        self._reached = np.zeros(len(units), np.float32)

    def run(self, on_progress: ProgressCallback) -> Iterator[Pairs]:
        """Pairs that hold the nearest neighbour of every vector but those of `missed`, with measured distances."""
        waiting = []
        starts = range(0, len(self._units), _ROWS)
        results = in_parallel(self._search, starts, rows=len(self._units))
        for number, (measured, unmeasured) in enumerate(results):
            yield from measured
            waiting.append(unmeasured)
            on_progress("nearest neighbours", *_tiles_done(number + 1, len(starts)))
        # Measured only now: with every tile seen, `_reached` is as high as it gets, and most candidates fall away.
        for candidate_rows, candidate_others, products in waiting:
            possible = products >= self._reached[candidate_rows] - 2 * self._sketch.slack
            rows, others = candidate_rows[possible], candidate_others[possible]
            yield rows, others, pair_distances(self._units, rows, others)

    def missed(self, best: Best) -> Positions:
        """The vectors whose nearest neighbour may have a product of zero or less, which codes cannot put in order."""
        return np.flatnonzero((best.nearest < 0) | (self._reached < 2 * self._sketch.slack))

    def _search(self, start: int) -> tuple[list[Pairs], tuple[Positions, Positions, Floats]]:
        """One block of rows against all later vectors: pairs that were measured, and candidates with their products."""
        buffer = self._sketch.new_buffer(_ROWS * _COLUMNS)
        measured: list[Pairs] = []
        unmeasured = [_NO_CANDIDATES]
        for rows, columns in _tiles(start, len(self._units)):
            codes = self._sketch.products(rows, columns, buffer)
            # A vector is not its own neighbour. -1 is below every candidate, as a float32 and as an int16.
            if rows.start == columns.start:
                np.fill_diagonal(codes, -1)
            # Each pair is computed once and serves both of its vectors.
            candidates = [self._promising(codes, rows, columns), self._promising(codes.T, columns, rows)]
            if sum(len(positions) for positions, _, _ in candidates) > _MANY * codes.size:
                measured += self._measure_tile(rows, columns)
            else:
                unmeasured += candidates
        rows_of, others_of, products_of = zip(*unmeasured, strict=True)
        return measured, (np.concatenate(rows_of), np.concatenate(others_of), np.concatenate(products_of))

    def _promising(
        self, codes: np.ndarray[Any, Any], rows: slice, columns: slice
    ) -> tuple[Positions, Positions, Floats]:
        """The entries of a tile that may belong to the nearest neighbour of a row of it, and their products."""
        top = as_products(codes.max(axis=1))
        reached = self._reached[rows]  # a view: raising it raises `_reached`
        np.maximum(reached, top, out=reached)
        # Each of the two products compared may be off by the slack, in opposite directions.
        bars = reached - 2 * self._sketch.slack
        busy = np.flatnonzero((top >= bars) & (top > 0))
        busy_codes = codes[busy]
        row, column = np.nonzero(busy_codes >= ordered_bar(bars[busy], codes.dtype)[:, None])
        return busy[row] + rows.start, column + columns.start, as_products(busy_codes[row, column])

    def _measure_tile(self, rows: slice, columns: slice) -> list[Pairs]:
        """The nearest neighbours of rows among columns, and of columns among rows, every pair measured."""
        distances = tile_distances(self._units[rows], self._units[columns])
        if rows.start == columns.start:
            np.fill_diagonal(distances, np.inf)
        nearest = []
        for table, own, other in ((distances, rows, columns), (distances.T, columns, rows)):
            first = _first_nearest(table)
            at = np.arange(len(table))
            nearest.append((at + own.start, first + other.start, table[at, first]))
        return nearest


def _search_in_float64(units: UnitVectors, rows: Positions, best: Best) -> None:
    """Offer `best` the nearest neighbours of a few vectors among all, by float64 products and without sketches."""
    for start in range(0, len(rows), _ROWS):
        positions = rows[start : start + _ROWS]
        queries = units[positions]
        for block, others in units.blocks(_COLUMNS):
            distances = tile_distances(queries, others)
            own = np.flatnonzero((positions >= block.start) & (positions < block.stop))
            distances[own, positions[own] - block.start] = np.inf
            first = _first_nearest(distances)
            best.offer(positions, first + block.start, distances[np.arange(len(positions)), first])


def _first_nearest(distances: Distances) -> Positions:
    """The column of each row's smallest distance; of those equally small, to within 1e-12, the first."""
    return np.asarray((distances <= distances.min(axis=1, keepdims=True) + _TIE).argmax(axis=1))


def _tiles(start: int, count: int) -> Iterator[tuple[slice, slice]]:
    """Tiles that compare the block of rows from `start` on with itself and with all later vectors."""
    rows = slice(start, min(start + _ROWS, count))
    for begin in range(start, count, _COLUMNS):
        yield rows, slice(begin, min(begin + _COLUMNS, count))


def _positions(at: Positions, part: slice | Positions) -> Positions:
    """Rows or columns of a tile as positions among all vectors."""
    return at + part.start if isinstance(part, slice) else part[at]


def _size(part: slice | Positions) -> int:
    return int(part.stop - part.start) if isinstance(part, slice) else len(part)


def _tiles_done(blocks: int, of: int) -> tuple[int, int]:
    """Pairs of blocks compared after so many blocks of rows, and in all: a block meets itself and all later ones."""
    return blocks * of - blocks * (blocks - 1) // 2, of * (of + 1) // 2
