"""Texts of which an embedder misses a part: unknown words, or what comes after the most tokens that it takes.

Vectors say nothing about that part. So rows are compared by distance only with rows of which the same is missed, which
for nearly all rows is nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from magpie.engines.embedder import unread_parts
from magpie.neighbors.order import first_before
from magpie.neighbors.vectors import Positions, ProgressCallback, UnitVectors
from magpie.recipe import Model


def misses(embedder: Model, texts: Iterable[str]) -> Positions:
    """For each text a number for what the embedder misses of it: 0 for nothing, equal numbers for the same."""
    numbers = {"": 0}
    return np.array(
        [numbers.setdefault(spot, len(numbers)) for spot in unread_parts(embedder, texts)], np.int64
    )


def groups(unread: Positions) -> Iterator[Positions]:
    """The positions that share a number, for each number but 0 that more than one has."""
    order = np.argsort(unread, kind="stable")
    numbers, starts = np.unique(unread[order], return_index=True)
    for number, group in zip(numbers, np.split(order, starts[1:]), strict=True) if len(order) else ():
        if number and len(group) > 1:
            yield group


def first_like(
    units: UnitVectors, first: int, unread: Positions, threshold: float, on_progress: ProgressCallback
) -> Positions:
    """`first_before`, where only vectors with equal `unread` are compared."""
    if not unread.any():
        return first_before(units, first, threshold, on_progress=on_progress)
    near = np.full(len(units), -1, np.int64)
    for group in (np.flatnonzero(unread == 0), *groups(unread)):
        before = int(np.searchsorted(group, first))
        if 0 < before < len(group):
            found = first_before(units.take(group), before, threshold, on_progress=on_progress)
            near[group[before:]] = np.where(found < 0, -1, group[found])
    return near[first:]


def texts_in(column: pa.ChunkedArray) -> Iterator[str]:
    """The texts of a column, a chunk at a time: all of them as Python strings may be several times as large."""
    for chunk in column.chunks:
        yield from chunk.to_pylist()
