"""Differences of figures between sets, with intervals that hold together: noise is not called a finding.

Where twenty figures are compared at 95 % each, one of them differs by chance. Here all intervals of a comparison hold
at once in 95 of 100: rows are drawn anew many times (bootstrap), each time all figures move by the pulls of the rows
that were drawn, and the intervals are as wide as the largest of all moves, in standard errors, at its 95th percentile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from magpie.figures.estimates import Estimate, Values

LEVEL = 0.95
DRAWS = 2_000
LEAST_ROWS = 20
"""With fewer rows than this on a side no difference is called one."""

_BLOCKS = 1_000
_AT_ONCE = 250


@dataclass(frozen=True, slots=True)
class Difference:
    """How much larger a figure is than in the first set, with its interval.

    `low` and `high` are None where there are too few rows to say. `differs` says that 0 is outside.
    """

    value: float
    low: float | None
    high: float | None

    @property
    def differs(self) -> bool:
        """Whether it is more than noise."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def differences(
    first: Sequence[Estimate | None],
    others: Sequence[Sequence[Estimate | None]],
    rows: Sequence[int],
    seed: int,
) -> list[list[Difference | None]]:
    """The differences of each of `others` from `first`, figure by figure; None where one of them lacks the figure.

    `rows` are how many rows the first and the others have. All intervals together hold at LEVEL.
    """
    rng = np.random.default_rng(seed)
    moves = [_moves(each, number, rng) for each, number in zip((first, *others), rows, strict=True)]
    found: list[list[Difference | None]] = []
    largest = np.zeros(DRAWS)
    errors: list[list[float | None]] = []
    for other, moved in zip(others, moves[1:], strict=True):
        of_other: list[float | None] = []
        for number, (a, b) in enumerate(zip(first, other, strict=True)):
            sure = a is not None and b is not None and min(a.rows, b.rows) >= LEAST_ROWS
            error = float(np.hypot(a.error, b.error)) if sure and a is not None and b is not None else None
            of_other.append(error)
            if error:
                np.maximum(largest, np.abs(moved[:, number] - moves[0][:, number]) / error, out=largest)
        errors.append(of_other)
    width = float(np.quantile(largest, LEVEL))
    for other, of_other in zip(others, errors, strict=True):
        found.append(
            [_difference(a, b, error, width) for a, b, error in zip(first, other, of_other, strict=True)]
        )
    return found


def interval(estimate: Estimate) -> tuple[float, float] | None:
    """The 95 % interval of one figure by itself; None where it has too few rows."""
    if estimate.rows < LEAST_ROWS:
        return None
    return estimate.value - 1.96 * estimate.error, estimate.value + 1.96 * estimate.error


def _difference(
    a: Estimate | None, b: Estimate | None, error: float | None, width: float
) -> Difference | None:
    if a is None or b is None:
        return None
    value = b.value - a.value
    return (
        Difference(value, None, None)
        if error is None
        else Difference(value, value - width * error, value + width * error)
    )


def _moves(estimates: Sequence[Estimate | None], rows: int, rng: np.random.Generator) -> Values:
    """By how much each figure moves in each draw of the rows (draws, figures)."""
    # Many rows are drawn in blocks, made at random once: their sums are as independent as the rows are.
    blocks = min(rows, _BLOCKS)
    block_of = rng.permutation(rows) % max(blocks, 1)
    pulls = np.zeros((blocks, len(estimates)))
    for number, estimate in enumerate(estimates):
        if estimate is not None:
            np.add.at(pulls[:, number], block_of[estimate.at], estimate.pulls)
    moves = np.zeros((DRAWS, len(estimates)))
    if not blocks:
        return moves
    shares: Any = np.full(blocks, 1 / blocks)
    for start in range(0, DRAWS, _AT_ONCE):
        weights = rng.multinomial(blocks, shares, size=min(_AT_ONCE, DRAWS - start)) - 1
        moves[start : start + len(weights)] = weights @ pulls
    return moves
