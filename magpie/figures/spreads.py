"""The numbers of a column: how they spread, and how many are beyond what a trainer takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from magpie.figures.report_rows import Positions, ReportRows

LIMITS = (2048, 4096, 8192)
"""Tokens that a training window often has."""

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Spread:
    """The values of the kept rows that have one, in order of the rows; and how they spread."""

    column: str
    values: Floats
    least: float
    quarter: float
    median: float
    three_quarters: float
    most: float
    mean: float

    @property
    def rows(self) -> int:
        """How many rows have a value."""
        return len(self.values)

    def share_over(self, limit: float) -> float:
        """The share of these rows whose value is above `limit`."""
        return float((self.values > limit).mean()) if len(self.values) else 0.0


def spread(rows: ReportRows, column: str) -> Spread | None:
    """The spread of a column over the kept rows; None where no row has a value."""
    if not rows.has(column):
        return None
    values = np.asarray(rows.table[column].to_numpy(), np.float64)[rows.kept]
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, quarter, middle, upper, high = np.percentile(values, [0, 25, 50, 75, 100])
    return Spread(column, values, *map(float, (low, quarter, middle, upper, high, values.mean())))


def worst(rows: ReportRows, column: str, most: int, *, largest: bool, of_kept: bool = True) -> Positions:
    """The positions of the rows with the smallest values of a column, or the largest; of equal ones the first."""
    if not rows.has(column):
        return np.empty(0, np.int64)
    values = np.asarray(rows.table[column].to_numpy(), np.float64)
    at = np.flatnonzero(np.isfinite(values) & (rows.kept if of_kept else True))
    order = np.argsort(-values[at] if largest else values[at], kind="stable")
    return at[order[:most]]
