"""Which cells of a grid nothing dominates, when every figure is a mean with an error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from magpie.doctor.measures import Mean

AXES = ("validity", "quality", "neighbor distance")
"""What cells are compared by; more is better on each."""

_ONE_SIDED = 1.645
"""Standard errors that chance exceeds one time in twenty."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The places of the cells in front, the axes they were compared by, and why the other axes were left out."""

    front: tuple[int, ...]
    axes: tuple[str, ...]
    notes: tuple[str, ...]


def find_front(cells: Sequence[Mapping[str, Mean]], *, plain: Mean, shuffled: Mean) -> Verdict:
    """The cells that nothing dominates. `plain` and `shuffled` test the judge: see `tune.py`."""
    axes, notes = [], []
    for axis in AXES:
        why = _silent(axis, [cell[axis] for cell in cells], plain, shuffled)
        if why is None:
            axes.append(axis)
        else:
            notes.append(f"{axis} is left out of the front: {why}")
    if not axes and len(cells) > 1:
        notes.append("nothing tells these settings apart, so all are in front; a larger --n may")
    places = range(len(cells))
    front = tuple(
        at for at in places if not any(dominates(cells[other], cells[at], axes) for other in places)
    )
    return Verdict(front, tuple(axes), tuple(notes))


def dominates(a: Mapping[str, Mean], b: Mapping[str, Mean], axes: Sequence[str]) -> bool:
    """Whether `a` is at least as good as `b` on every axis, and better on one by more than a standard error.

    The error is that of the difference. A mean that is no number is worse than any other.
    """
    if any(_height(a[axis]) < _height(b[axis]) for axis in axes):
        return False
    return any(_better(a[axis], b[axis]) for axis in axes)


def differ(means: Sequence[Mean]) -> bool:
    """Whether the means differ by more than chance makes them differ one time in twenty.

    Cochran's Q: squared distances from the weighted mean, each over its squared error, against chi-squared, whose 95 %
    point is that of Wilson and Hilferty's approximation. Means with no number or no finite error are not looked at;
    equal values without any error are equal, unequal ones are not.
    """
    sound = [mean for mean in means if math.isfinite(mean.value) and math.isfinite(mean.error)]
    if len(sound) < 2:
        return False
    typical = math.sqrt(sum(mean.error**2 for mean in sound) / len(sound))
    if typical == 0:
        return len({mean.value for mean in sound}) > 1
    # A cell whose rows were all judged alike has no error of its own, and would outweigh all others.
    weights = [1 / max(mean.error, typical / 2) ** 2 for mean in sound]
    middle = sum(w * mean.value for w, mean in zip(weights, sound, strict=True)) / sum(weights)
    q = sum(w * (mean.value - middle) ** 2 for w, mean in zip(weights, sound, strict=True))
    freedom = len(sound) - 1
    spread = 2 / (9 * freedom)
    return q > freedom * (1 - spread + _ONE_SIDED * math.sqrt(spread)) ** 3


def _better(a: Mean, b: Mean) -> bool:
    if not (math.isfinite(a.value) and math.isfinite(b.value)):
        return math.isfinite(a.value)
    return a.value - b.value > math.hypot(a.error, b.error)


def _height(mean: Mean) -> float:
    return mean.value if math.isfinite(mean.value) else -math.inf


def _silent(axis: str, means: Sequence[Mean], plain: Mean, shuffled: Mean) -> str | None:
    """Why an axis says nothing of the cells, or None where it does."""
    if not any(math.isfinite(mean.value) for mean in means):
        return "it could not be measured"
    if axis == "quality":
        apart = plain.value - shuffled.value
        if not apart > _ONE_SIDED * math.hypot(plain.error, shuffled.error):
            return (
                f"the judge gives {shuffled.rows} instructions {plain.value:.2f} ± {plain.error:.2f}, and with their "
                f"words shuffled {shuffled.value:.2f} ± {shuffled.error:.2f}, so it cannot tell good from bad"
            )
    return None if differ(means) else "the settings differ no more than chance makes them"
