"""Vectors in an order of preference: each is kept unless it is near one that is kept already."""

from __future__ import annotations

import numpy as np

from magpie.neighbors.exact import PairFinder
from magpie.neighbors.vectors import Positions, ProgressCallback, UnitVectors, in_parallel, no_progress

_BLOCK = 1024
_KEPT_AT_ONCE = 8192


def keep_in_order(
    units: UnitVectors,
    threshold: float,
    *,
    quick: bool | None = None,
    on_progress: ProgressCallback = no_progress,
) -> Positions:
    """For each vector -1 if it is kept, else the first kept vector nearer than `threshold` (strictly).

    Vectors are taken in the order they come in. With A near B and B near C: A is kept, B repeats A, and C is kept
    unless it is near A itself.
    """
    repeats = np.full(len(units), -1, np.int64)
    kept = np.empty(0, np.int64)
    finder = PairFinder(units, threshold, quick=quick)
    buffer = finder.new_buffer(_BLOCK * _KEPT_AT_ONCE)
    for start in range(0, len(units), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(units)))
        # Only kept vectors are compared with, in rising order: the first one near a vector is settled here.
        for begin in range(0, len(kept), _KEPT_AT_ONCE):
            earlier, later, _ = finder.pairs(kept[begin : begin + _KEPT_AT_ONCE], block, buffer)
            _take_first(repeats, earlier, later)
        # Inside the block nothing is decided yet. `np.unique` rises, so when a vector's turn comes, all before it are
        # decided, and it is kept for good if nothing has claimed it.
        earlier, later, _ = finder.pairs(block, block, buffer)
        for position in np.unique(earlier):
            if repeats[position] < 0:
                _take_first(repeats, earlier[earlier == position], later[earlier == position])
        positions = np.arange(block.start, block.stop)
        kept = np.concatenate([kept, positions[repeats[positions] < 0]])
        on_progress("keeping in order", block.stop, len(units))
    return repeats


def _take_first(repeats: Positions, earlier: Positions, later: Positions) -> None:
    """Enter in `repeats`, for each of `later` that has no entry yet, the first of `earlier` it is paired with."""
    is_open = repeats[later] < 0
    earlier, later = earlier[is_open], later[is_open]
    # Of several values assigned to one place numpy keeps the last: sorted falling, that is the lowest.
    order = np.argsort(-earlier, kind="stable")
    repeats[later[order]] = earlier[order]


def first_before(
    units: UnitVectors,
    first: int,
    threshold: float,
    *,
    quick: bool | None = None,
    on_progress: ProgressCallback = no_progress,
) -> Positions:
    """For each vector from position `first` on: the first one before `first` nearer than `threshold`, or -1."""
    repeats = np.full(len(units), -1, np.int64)
    finder = PairFinder(units, threshold, quick=quick)
    none = np.empty(0, np.int64)

    def search(start: int) -> tuple[Positions, Positions]:
        columns = slice(start, min(start + _BLOCK, len(units)))
        buffer = finder.new_buffer(_BLOCK * _KEPT_AT_ONCE)
        pairs = [
            finder.pairs(slice(begin, min(begin + _KEPT_AT_ONCE, first)), columns, buffer)
            for begin in range(0, first, _KEPT_AT_ONCE)
        ]
        # The empty array is for `first` 0, where there is nothing to concatenate.
        earlier = np.concatenate([none, *(positions for positions, _, _ in pairs)])
        later = np.concatenate([none, *(positions for _, positions, _ in pairs)])
        return earlier, later

    for earlier, later in in_parallel(search, range(first, len(units), _BLOCK), rows=len(units)):
        _take_first(repeats, earlier, later)
        if len(later):
            on_progress("comparing with other datasets", int(later[-1]) + 1 - first, len(units) - first)
    return repeats[first:]
