"""Rows in an order of preference: each is kept unless it is near one that is kept already."""

from __future__ import annotations

import numpy as np

from magpie.neighbors.exact import PairFinder
from magpie.neighbors.vectors import Positions, UnitVectors, Watch, in_parallel, unwatched

_BLOCK = 1024
_KEPT_AT_ONCE = 8192


def keep_in_order(
    units: UnitVectors, threshold: float, *, quick: bool | None = None, watch: Watch = unwatched
) -> Positions:
    """For each vector -1, or the first kept vector nearer than `threshold` (strictly), which it repeats.

    Vectors are considered in the order they come in. So of A~B~C, A is kept, B repeats A, and C is kept unless it is
    near A. Only vectors that are kept are compared with: memory is for them, never for all pairs.
    """
    repeats = np.full(len(units), -1, np.int64)
    kept = np.empty(0, np.int64)
    finder = PairFinder(units, threshold, quick=quick)
    room = finder.room(_BLOCK * _KEPT_AT_ONCE)
    for start in range(0, len(units), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(units)))
        for begin in range(0, len(kept), _KEPT_AT_ONCE):
            earlier, later, _ = finder.pairs(kept[begin : begin + _KEPT_AT_ONCE], block, room)
            _take_first(repeats, earlier, later)
        earlier, later, _ = finder.pairs(block, block, room)
        for first in np.unique(earlier):
            if repeats[first] < 0:
                _take_first(repeats, earlier[earlier == first], later[earlier == first])
        here = np.arange(block.start, block.stop)
        kept = np.concatenate([kept, here[repeats[here] < 0]])
        watch("keeping in order", block.stop, len(units))
    return repeats


def _take_first(repeats: Positions, earlier: Positions, later: Positions) -> None:
    """Says of each later vector that has nothing yet which kept one it repeats: the first. Changes `repeats`."""
    fresh = repeats[later] < 0
    earlier, later = earlier[fresh], later[fresh]
    order = np.argsort(-earlier, kind="stable")
    repeats[later[order]] = earlier[
        order
    ]  # where a place is assigned to repeatedly, the last, the lowest, stays


def first_before(
    units: UnitVectors, first: int, threshold: float, *, quick: bool | None = None, watch: Watch = unwatched
) -> Positions:
    """For each vector from position `first` on, -1, or the first one before `first` nearer than `threshold`."""
    found = np.full(len(units), -1, np.int64)
    finder = PairFinder(units, threshold, quick=quick)

    def search(start: int) -> tuple[Positions, Positions]:
        columns = slice(start, min(start + _BLOCK, len(units)))
        room = finder.room(_BLOCK * _KEPT_AT_ONCE)
        pairs = [
            finder.pairs(slice(begin, min(begin + _KEPT_AT_ONCE, first)), columns, room)
            for begin in range(0, first, _KEPT_AT_ONCE)
        ]
        empty = np.empty(0, np.int64)
        earlier, later = ([empty, *side] for side in list(zip(*pairs, strict=True))[:2] or ((), ()))
        return np.concatenate(earlier), np.concatenate(later)

    for earlier, later in in_parallel(search, range(first, len(units), _BLOCK), rows=len(units)):
        _take_first(found, earlier, later)
        if len(later):
            watch("comparing with other datasets", int(later[-1]) + 1 - first, len(units) - first)
    return found[first:]
