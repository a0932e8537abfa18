"""The best settings of a grid: its Pareto front, where every figure is a mean with a standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from magpie.doctor.measures import Mean

AXES = ("validity", "quality", "neighbor distance")
"""What settings are compared by; more is better on each."""

_ONE_SIDED = 1.645
"""The 95 % point of the normal distribution: chance exceeds it one time in twenty."""


@dataclass(frozen=True, slots=True)
class ParetoFront:
    """The positions of the best cells, the axes they were compared by, and why each other axis was left out."""

    cells: tuple[int, ...]
    axes: tuple[str, ...]
    notes: tuple[str, ...]


def pareto_front(cells: Sequence[Mapping[str, Mean]], *, plain: Mean, shuffled: Mean) -> ParetoFront:
    """The cells that no other cell dominates.

    `plain` and `shuffled` are the judge's mean quality of some instructions, and of the same ones with their words
    shuffled (see `judge_check.py`). An axis that cannot tell the cells apart is not compared, and a note says why.
    """
    axes, notes = [], []
    for axis in AXES:
        why = _why_left_out(axis, [cell[axis] for cell in cells], plain, shuffled)
        if why is None:
            axes.append(axis)
        else:
            notes.append(f"{axis} does not decide: {why}")
    if not axes and len(cells) > 1:
        notes.append("nothing tells these settings apart, so all are marked as best; a larger --n may")
    best = tuple(
        position
        for position, cell in enumerate(cells)
        if not any(dominates(other, cell, axes) for other in cells)
    )
    return ParetoFront(best, tuple(axes), tuple(notes))


def dominates(a: Mapping[str, Mean], b: Mapping[str, Mean], axes: Sequence[str]) -> bool:
    """Whether `a` is at least as good as `b` on every axis, and better by more than a standard error on one.

    The standard error is that of the difference. NaN is worse than any number.
    """
    # The means are compared here without their errors. Cells can then not dominate one another in a circle, and at
    # least one cell is never dominated.
    if any(_rank(a[axis]) < _rank(b[axis]) for axis in axes):
        return False
    return any(_clearly_better(a[axis], b[axis]) for axis in axes)


def differ(means: Sequence[Mean]) -> bool:
    """Whether the means differ by more than chance explains in 19 of 20 cases: Cochran's Q test.

    Means that are NaN, or have an infinite error, are passed over. When no mean has an error, any two different values
    differ.
    """
    finite = [mean for mean in means if math.isfinite(mean.value) and math.isfinite(mean.error)]
    if len(finite) < 2:
        return False
    typical = math.sqrt(sum(mean.error**2 for mean in finite) / len(finite))
    if typical == 0:
        return len({mean.value for mean in finite}) > 1
    # Each mean is weighted by 1 / error². A cell whose rows all got the same grade has an error of 0, and its weight
    # would be infinite: no error counts as less than half of the typical one.
    weights = [1 / max(mean.error, typical / 2) ** 2 for mean in finite]
    center = sum(w * mean.value for w, mean in zip(weights, finite, strict=True)) / sum(weights)
    q = sum(w * (mean.value - center) ** 2 for w, mean in zip(weights, finite, strict=True))
    # When all cells are alike, Q follows the chi-squared distribution. This is the 95 % point of that, in the
    # approximation of Wilson and Hilferty: within 2.5 % of the exact one, and it needs no table.
    degrees = len(finite) - 1
    variance = 2 / (9 * degrees)
    return q > degrees * (1 - variance + _ONE_SIDED * math.sqrt(variance)) ** 3


def _clearly_better(a: Mean, b: Mean) -> bool:
    if not (math.isfinite(a.value) and math.isfinite(b.value)):
        return math.isfinite(a.value)
    return a.value - b.value > math.hypot(a.error, b.error)


def _rank(mean: Mean) -> float:
    """A number to order means by: NaN has no order."""
    return mean.value if math.isfinite(mean.value) else -math.inf


def _why_left_out(axis: str, means: Sequence[Mean], plain: Mean, shuffled: Mean) -> str | None:
    """Why the cells cannot be compared by an axis, or None where they can."""
    if not any(math.isfinite(mean.value) for mean in means):
        return "it could not be measured"
    if axis == "quality":
        gap = plain.value - shuffled.value
        # `not gap > ...` is true for NaN as well: a judge that was not tested has no say.
        if not gap > _ONE_SIDED * math.hypot(plain.error, shuffled.error):
            return (
                f"the judge gives {shuffled.rows} instructions {plain.value:.2f} ± {plain.error:.2f}, and with their "
                f"words shuffled {shuffled.value:.2f} ± {shuffled.error:.2f}, so it cannot tell good from bad"
            )
    return None if differ(means) else "the settings differ no more than chance makes them"
