"""Every pair of near vectors, and every nearest neighbour, by comparing all of them with all others.

Most pairs are told apart by their sketches (`sketch.py`): what is far apart there needs no second look. What is left is
measured: by subtraction, or tile by tile in float64 where it is much.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from magpie.neighbors.sketch import Sketch, as_products, ordered_bar
from magpie.neighbors.vectors import (
    Distances,
    Floats,
    Positions,
    UnitVectors,
    Watch,
    in_parallel,
    nearer,
    pair_distances,
    tile_distances,
    unwatched,
)

if TYPE_CHECKING:
    pass

_ROWS, _COLUMNS = 1024, 2048
_MANY = 1 / 64
_TIE = 1e-12
_NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


class PairFinder:
    """Finds the pairs of vectors that are nearer than `threshold` (strictly), tile by tile."""

    def __init__(self, units: UnitVectors, threshold: float, *, quick: bool | None = None) -> None:
        self._units, self._threshold = units, threshold
        self._sketch = Sketch.of(units, quick=quick)
        if threshold / 2 + self._sketch.slack >= 1:  # bits are in order above zero only
            self._sketch = Sketch.of(units, quick=False)
        self._bar = 1 - threshold / 2 - self._sketch.slack

    def room(self, products: int = _ROWS * _COLUMNS) -> Any:
        """Where `pairs` may work on a tile of so many pairs: one for each thread."""
        return self._sketch.room(products)

    def pairs(
        self, rows: slice | Positions, columns: slice, room: Any
    ) -> tuple[Positions, Positions, Distances]:
        """Positions i < j of the near pairs between rows and columns, and their distances.

        A distance is by subtraction, or within 1e-12 of it.
        """
        codes = self._sketch.products(rows, columns, room)
        limit = ordered_bar(self._bar, codes.dtype)
        busy = np.flatnonzero(codes.max(axis=0) > limit) if codes.size else np.empty(0, np.int64)
        row, column = np.nonzero(codes[:, busy] > limit)
        i, j = _positions(row, rows), busy[column] + columns.start
        found = near_in_tile(self._units, rows, columns, (i[i < j], j[i < j]), self._threshold)
        once = found[0] < found[1]
        return found[0][once], found[1][once], found[2][once]


def near_in_tile(
    units: UnitVectors,
    rows: slice | Positions,
    columns: slice | Positions,
    candidates: tuple[Positions, Positions],
    threshold: float,
) -> tuple[Positions, Positions, Distances]:
    """The near pairs between rows and columns, all of which are among the candidates, and their distances.

    Candidates are measured one by one; where they are a good part of the tile, the whole tile is, in float64.
    """
    i, j = candidates
    a_count, b_count = (_size(part) for part in (rows, columns))
    if len(i) <= _MANY * a_count * b_count:
        distances = pair_distances(units, i, j)
        near = distances < threshold
        return i[near], j[near], distances[near]
    a, b = units[rows], units[columns]
    table = tile_distances(a, b)
    row, column = np.nonzero(nearer(table, a, b, threshold))
    return _positions(row, rows), _positions(column, columns), np.maximum(table[row, column], 0)


def near_pairs(
    units: UnitVectors, threshold: float, *, quick: bool | None = None, watch: Watch = unwatched
) -> Iterator[tuple[Positions, Positions, Distances]]:
    """Every pair of vectors nearer than `threshold` (strictly), piece by piece: positions i < j and distances.

    A distance is by subtraction, or within 1e-12 of it. Memory: the sketches, and a few tiles.
    """
    finder = PairFinder(units, threshold, quick=quick)

    def search(start: int) -> list[tuple[Positions, Positions, Distances]]:
        room = finder.room()
        return [finder.pairs(rows, columns, room) for rows, columns in _tiles(start, len(units))]

    starts = range(0, len(units), _ROWS)
    for number, found in enumerate(in_parallel(search, starts, rows=len(units))):
        yield from (one for one in found if len(one[0]))
        watch("comparing all pairs", *_pairs_done(number + 1, len(starts)))


def all_nearest(
    units: UnitVectors, *, quick: bool | None = None, watch: Watch = unwatched
) -> tuple[Distances, Positions]:
    """The squared distance from each vector to its nearest other, by subtraction, and that one's position.

    Of neighbours equally near, to within 1e-12, the first is named. A vector that is alone gets NaN, and itself.
    """
    best = Best.empty(len(units))
    if len(units) > 1:
        sketch = Sketch.of(units, whole=True, quick=quick)
        search = _NearestSearch(units, sketch)
        for found in search.run(watch):
            best.offer(*found)
        _search_plainly(units, search.missed(best), best)
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
        """Nothing found yet, for `count` vectors."""
        return cls(np.full(count, np.inf), np.full(count, -1, np.int64))

    def offer(self, rows: Positions, others: Positions, distances: Distances) -> None:
        """Take the neighbours that are nearer than what was known, or as near and earlier. Rows may come repeatedly."""
        if not len(rows):
            return
        order = np.lexsort((others, distances, rows))
        rows, others, distances = rows[order], others[order], distances[order]
        first = np.r_[True, rows[1:] != rows[:-1]]
        group = np.cumsum(first) - 1
        tied = distances <= distances[first][group] + _TIE
        least = np.minimum.reduceat(np.where(tied, others, len(self.nearest)), np.flatnonzero(first))
        rows, distances = rows[first], distances[first]
        nearer = distances < self.distance[rows] - _TIE
        earlier = (distances <= self.distance[rows] + _TIE) & (least < self.nearest[rows])
        taken = nearer | earlier
        self.nearest[rows[taken]] = least[taken]
        self.distance[rows[taken]] = np.minimum(distances, self.distance[rows])[taken]


class _NearestSearch:
    """Finds, by sketches of all dimensions, the few vectors that can be the nearest of each, and measures them.

    `reached` is the largest product that each vector is known to have with another: a neighbour whose product is lower
    by more than rounding explains is not the nearest. Threads read it while others raise it; an old value only makes
    for more to measure.
    """

    def __init__(self, units: UnitVectors, sketch: Sketch) -> None:
        self._units, self._sketch = units, sketch
        self._reached = np.zeros(len(units), np.float32)

    def run(self, watch: Watch) -> Iterator[tuple[Positions, Positions, Distances]]:
        """Pairs among which every vector's nearest neighbour is, but for those that are `missed`."""
        waiting = []
        starts = range(0, len(self._units), _ROWS)
        for number, (measured, unmeasured) in enumerate(
            in_parallel(self._search, starts, rows=len(self._units))
        ):
            yield from measured
            waiting.append(unmeasured)
            watch("nearest neighbours", *_pairs_done(number + 1, len(starts)))
        for rows, others, products in waiting:
            worth = products >= self._reached[rows] - 2 * self._sketch.slack
            likely = rows[worth], others[worth]
            yield *likely, pair_distances(self._units, *likely)

    def missed(self, best: Best) -> Positions:
        """The vectors that no product above zero tells of, or none by more than rounding explains."""
        return np.flatnonzero((best.nearest < 0) | (self._reached < 2 * self._sketch.slack))

    def _search(self, start: int) -> tuple[list[Any], tuple[Positions, Positions, Floats]]:
        room = self._sketch.room(_ROWS * _COLUMNS)
        measured: list[Any] = []
        unmeasured: list[Any] = []
        for rows, columns in _tiles(start, len(self._units)):
            codes = self._sketch.products(rows, columns, room)
            if rows.start == columns.start:
                np.fill_diagonal(codes, -1)
            found = [self._promising(codes, rows, columns), self._promising(codes.T, columns, rows)]
            if sum(len(one[0]) for one in found) > _MANY * codes.size:
                measured += self._measure_tile(rows, columns)
            else:
                unmeasured += found
        rows_of, others_of, products_of = zip(_NOTHING, *unmeasured, strict=True)
        return measured, (np.concatenate(rows_of), np.concatenate(others_of), np.concatenate(products_of))

    def _promising(
        self, codes: np.ndarray[Any, Any], rows: slice, columns: slice
    ) -> tuple[Positions, Positions, Floats]:
        """The entries of a tile that may belong to the nearest neighbour of a row of it, and their products."""
        top = as_products(codes.max(axis=1))
        here = self._reached[rows]
        np.maximum(here, top, out=here)
        bars = here - 2 * self._sketch.slack
        busy = np.flatnonzero((top >= bars) & (top > 0))
        some = codes[busy]
        row, column = np.nonzero(some >= ordered_bar(bars[busy], codes.dtype)[:, None])
        return busy[row] + rows.start, column + columns.start, as_products(some[row, column])

    def _measure_tile(self, rows: slice, columns: slice) -> list[tuple[Positions, Positions, Distances]]:
        """The nearest neighbours of rows among columns, and of columns among rows, every pair measured."""
        distances = tile_distances(self._units[rows], self._units[columns])
        if rows.start == columns.start:
            np.fill_diagonal(distances, np.inf)
        found = []
        for table, mine, theirs in ((distances, rows, columns), (distances.T, columns, rows)):
            first = (table <= table.min(axis=1, keepdims=True) + _TIE).argmax(axis=1)
            at = np.arange(len(table))
            found.append((at + mine.start, first + theirs.start, table[at, first]))
        return found


def _search_plainly(units: UnitVectors, rows: Positions, best: Best) -> None:
    """Finds the nearest neighbours of a few vectors among all, in float64: those with no product above zero."""
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        queries = units[some]
        for here, others in units.blocks(_COLUMNS):
            distances = tile_distances(queries, others)
            inside = np.flatnonzero((some >= here.start) & (some < here.stop))
            distances[inside, some[inside] - here.start] = np.inf
            first = (distances <= distances.min(axis=1, keepdims=True) + _TIE).argmax(axis=1)
            best.offer(some, first + here.start, distances[np.arange(len(some)), first])


def _tiles(start: int, count: int) -> Iterator[tuple[slice, slice]]:
    """Tiles that cover the rows from `start` on, against themselves and all later vectors."""
    rows = slice(start, min(start + _ROWS, count))
    for begin in range(start, count, _COLUMNS):
        yield rows, slice(begin, min(begin + _COLUMNS, count))


def _positions(at: Positions, among: slice | Positions) -> Positions:
    """Places within a tile as positions among all vectors."""
    return at + among.start if isinstance(among, slice) else among[at]


def _size(part: slice | Positions) -> int:
    return int(part.stop - part.start) if isinstance(part, slice) else len(part)


def _pairs_done(blocks: int, of: int) -> tuple[int, int]:
    """How many of how many tiles are done after so many of the blocks of rows: each block meets all later ones."""
    return blocks * of - blocks * (blocks - 1) // 2, of * (of + 1) // 2
