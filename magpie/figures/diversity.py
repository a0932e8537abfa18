"""How diverse rows are, by their vectors: near copies, the distance to the nearest row, NovelSum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from magpie.figures.estimates import Estimate, densities, nearest, novel_sum, repeats
from magpie.neighbors.vectors import (
    Distances,
    Floats,
    Positions,
    ProgressCallback,
    no_progress,
    tile_distances,
)

THRESHOLD = 0.05
"""Squared distance below which two instructions are near copies (arXiv 2406.08464)."""
MOST_ROWS = 2_000
"""The most rows of a set that these figures are taken of: they look at all pairs."""

_ROWS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Diversity:
    """Figures of one set that depend on how many rows they are taken of: compare equally many."""

    near: Estimate
    nearest: Estimate
    novel_sum: Estimate


def diversities(
    parts: Sequence[Floats],
    positions: Sequence[Positions],
    threshold: float = THRESHOLD,
    on_progress: ProgressCallback = no_progress,
) -> list[Diversity]:
    """The figures of sets of unit vectors, whose rows have these positions in their sets.

    The densities of NovelSum are those around a row among the rows of all these sets together.
    """
    reference = np.unique(np.concatenate(parts), axis=0)
    found = []
    for number, (part, at) in enumerate(zip(parts, positions, strict=True)):
        on_progress("measuring how the rows lie", number, len(parts))
        table = np.maximum(tile_distances(part, part), 0)
        density = np.concatenate(
            [
                densities(np.maximum(tile_distances(part[start : start + _ROWS_AT_ONCE], reference), 0))
                for start in range(0, len(part), _ROWS_AT_ONCE)
            ]
        )
        found.append(
            Diversity(repeats(table, threshold, at), nearest(table, at), novel_sum(table, density, at))
        )
    return found


def nearest_distances(vectors: Floats, others: Floats | None = None) -> Distances:
    """The squared distance of each unit vector to the nearest of the others, float64; without others, to that of its
    own set.
    """
    least: Any = np.full(len(vectors), np.inf)
    towards = vectors if others is None else others
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        here = slice(start, start + _ROWS_AT_ONCE)
        block = vectors[here]
        for first in range(0, len(towards), _ROWS_AT_ONCE):
            table = np.maximum(tile_distances(block, towards[first : first + _ROWS_AT_ONCE]), 0)
            if others is None and first == start:
                np.fill_diagonal(table, np.inf)
            np.minimum(least[here], table.min(axis=1), out=least[here])
    return np.asarray(least)
