"""How much a generator still has to say: which rows were new as the run went on, and how many of the next would be.

A row is new when `dedup` keeps it: then no kept row before it is near, and nothing later changes that. So the rows in
order, block by block, are the saturation curve as it was, measured and not modelled.

What comes next is estimated from groups: a kept row and the repeats it absorbed. Were the run to go on for m rows, t
times the n it has, the expected number of new ones is (Good and Toulmin, Biometrika 43, 1956)

    new = t Φ1 - t² Φ2 + t³ Φ3 - ...        Φk: how many groups hold k rows

whose first term is Good and Turing's: the chance that the next row is new is Φ1 / n. The later terms are the rows that
repeat one another among the m. The series says nothing beyond t = 1, so a run of fewer than 1,000 rows is asked about
as many rows as it has.

A kept row's `repeat_count`, c, is how many repeats are near it, since no two kept rows are near each other. While no
repeat is near two kept rows, which Σ c = repeats shows, it holds c + 1 rows and Φ is exact. Where the groups overlap,
each near repeat is taken to be the row's own with probability ρ = repeats / Σ c, and as t (-t)^c becomes
t (1 - ρ(1 + t))^c, the series keeps a closed form. It is then too low rather than too high, up to saying that nothing
new is left where groups overlap many times over; so the standard error takes in how far it is from the latest rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.errors import DamagedShardError, RunError
from magpie.steps.base import REJECTED

if TYPE_CHECKING:
    from magpie.runs.run import Run, RunStep

Counts = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

BLOCK = 1000
"""Rows of a block, and of the future asked about."""

MOST_SETTINGS = 20
"""Settings, or steering prompts, beyond which their figures would say little and fill pages: none are given."""

_BLOCKS = 10
_Settings = tuple[Sequence[dict[str, Any]], Counts]
_NO_SETTINGS: _Settings = ((), np.empty(0, np.int64))
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")
_UNSEEN_PAIR = (
    0.5  # a standard error of 0 for a run without one repeat would be a boast: Jeffreys' half a pair
)


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring rows of the run, and how many of them were new when they came."""

    rows: int
    new: int


@dataclass(frozen=True, slots=True)
class Next:
    """How many of the next `rows` rows would be new, give or take one `standard_error` of that prediction."""

    rows: int
    new: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class Yield:
    """What one setting gave: its rows, those that were new, and the chance that the next row drawn so is new."""

    setting: dict[str, Any]
    rows: int
    new: int
    chance: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class Saturation:
    """The curve of a run and what follows from it. `rows` came to dedup, `new` of them were kept by it.

    `curve` holds blocks of 1,000 rows, or of a tenth of the run where that is less; the last one may be shorter.
    `apart` is ρ: 1 when every repeat is near one kept row only, so that what is estimated rests on exact counts.
    `by_sampling` has an entry for each way of the recipe's mix, `by_steering` one for each `steer_id`; either is empty
    where there is nothing to compare, or too much.
    """

    rows: int
    new: int
    curve: tuple[Block, ...]
    next: Next
    apart: float
    by_sampling: tuple[Yield, ...]
    by_steering: tuple[Yield, ...]

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON can hold them."""
        return asdict(self)


def saturation(run: Run) -> Saturation:
    """The saturation of a run that is past dedup, from a few columns of its shards.

    Raises RunError when there is none to speak of, and DamagedShardError.
    """
    finder = run.step_adding("repeat_count")
    if finder is None:
        raise RunError("no step of the recipe says which rows are repeats")
    if not all(run.has_shard(finder, shard) for shard in range(run.shards)):
        raise RunError(f"not every row has come to {finder.name} yet")
    came, near, new = _neighbors(run, finder)
    if not len(near):
        raise RunError(f"not one row came to {finder.name}")
    return Saturation(
        rows=len(near),
        new=int(new.sum()),
        curve=_curve(new),
        next=expected_new(near, new),
        apart=round(_apart(near, new), 6),
        by_sampling=_yields(_sampling(run, came), near, new),
        by_steering=_yields(_steering(run, came), near, new),
    )


def expected_new(near: Counts, new: Mask, rows: int = BLOCK) -> Next:
    """How many of the next `rows` rows would be new: at most as many as there are.

    `near` and `new` have an entry for each row in order: the rows near it, and whether dedup kept it. The error is that
    of predicting the number itself, its own chance included: with the groups' sizes Poisson variables, the variance of
    estimate less truth is Σ t^(2k) Φk + new, from which holding n and m fixed takes (m q)² (1/n + 1/m), where q is the
    chance that a row is new after the m.
    """
    n, m = len(near), min(rows, len(near))
    t, own = m / n, _apart(near, new)
    counts, groups = np.unique(near[new], return_counts=True)

    def series(z: float) -> float:
        """Σ z^(k - 1) Φk, every group of each size weighed by the chance that it is of that size."""
        return float((groups * (1 - own * (1 - z)) ** counts).sum())

    chance = series(0) / n
    estimate = min(max(t * series(-t), 0.0), m * chance)
    falls = t * own * float((groups * counts * (1 - own * (1 + t)) ** np.maximum(counts - 1, 0)).sum())
    later = min(max((series(-t) - falls - 2 * t * _UNSEEN_PAIR) / n, 0.0), chance)
    spread = t**2 * (series(t**2) + _UNSEEN_PAIR * t**2) + max(estimate - _UNSEEN_PAIR * t**2, 0.0)
    variance = max(spread - (m * later) ** 2 * (1 / n + 1 / m), 0.0)
    latest = m * float(new[-max(1, min(m, n // 4)) :].mean())
    variance += (1 - own) * (latest - estimate) ** 2
    return Next(m, round(estimate, 2), round(variance**0.5, 2))


def _apart(near: Counts, new: Mask) -> float:
    """ρ: of the times that a repeat is near a kept row, the share in which it is that row's own."""
    met = int(near[new].sum())
    return (len(new) - int(new.sum())) / met if met else 1.0


def _curve(new: Mask) -> tuple[Block, ...]:
    rows = min(BLOCK, -(-len(new) // _BLOCKS))
    blocks = (new[start : start + rows] for start in range(0, len(new), rows))
    return tuple(Block(len(block), int(block.sum())) for block in blocks)


def _yields(found: _Settings, near: Counts, new: Mask) -> tuple[Yield, ...]:
    """The figures of each setting; `found` has the settings, and for each row which of them it has.

    The variance is Esty's (Annals of Statistics 11, 1983), where twice the groups seen twice are the rows that have
    one other near them.
    """
    settings, which = found
    own = _apart(near, new)
    yields = []
    for number, setting in enumerate(settings):
        here = which == number
        rows, kept = int(here.sum()), here & new
        if not rows:
            continue
        once = float(((1 - own) ** near[kept]).sum())
        variance = once * (1 - once / rows) + int((near[here] == 1).sum()) + 2 * _UNSEEN_PAIR
        chance, error = once / rows, variance**0.5 / rows
        yields.append(Yield(setting, rows, int(kept.sum()), round(chance, 6), round(error, 6)))
    return tuple(yields)


def _neighbors(run: Run, finder: RunStep) -> tuple[list[Mask], Counts, Mask]:
    """Shard by shard, which rows came to dedup; and of those, in order, the rows near each, and whether it is new."""
    came: list[Mask] = []
    near: list[Any] = []
    new: list[Any] = []
    for table in _columns(run, finder, ["repeat_count", REJECTED.name]):
        counts, here = table["repeat_count"], _numpy(pc.is_valid(table["repeat_count"]))
        came.append(here)
        near.append(counts.drop_null().to_numpy())
        new.append(_numpy(pc.is_null(table[REJECTED.name]))[here])
    return came, np.concatenate(near), np.concatenate(new)


def _sampling(run: Run, came: list[Mask]) -> _Settings:
    """The ways to sample in the recipe's mix, and which of them each row was drawn by."""
    mix = [draw.model_dump(include=set(_SAMPLING)) for draw in run.recipe.instruct.mix]
    ways = [way for at, way in enumerate(mix) if way not in mix[:at]]
    drawer = run.step_adding(_SAMPLING[0])
    if drawer is None or not 1 < len(ways) <= MOST_SETTINGS:
        return _NO_SETTINGS
    which = []
    differ = [name for name in _SAMPLING if len({way[name] for way in ways}) > 1]
    for table, here in zip(_columns(run, drawer, differ), came, strict=True):
        drawn = np.full(int(here.sum()), -1, np.int8)
        columns = {name: _numpy(table[name])[here] for name in differ}
        for number, way in enumerate(ways):
            same = [values == values.dtype.type(way[name]) for name, values in columns.items()]
            drawn[np.logical_and.reduce(same)] = number
        which.append(drawn)
    return ways, np.concatenate(which)


def _steering(run: Run, came: list[Mask]) -> _Settings:
    """The steering prompts that rows were given, by name, and which of them each row was given."""
    step = run.step_adding("steer_id")
    if step is None:
        return _NO_SETTINGS
    names: dict[Any, int] = {}
    which = []
    for table, here in zip(_columns(run, step, ["steer_id"]), came, strict=True):
        encoded = table["steer_id"].filter(pa.array(here)).combine_chunks().dictionary_encode("encode")
        numbers = [names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()]
        if len(names) > MOST_SETTINGS:
            return _NO_SETTINGS
        which.append(np.array(numbers, np.int64)[_numpy(encoded.indices)])
    if len(names) < 2:
        return _NO_SETTINGS
    in_order = sorted(names, key=lambda name: (name is None, str(name)))
    place = np.array([in_order.index(name) for name in names], np.int64)
    return [{"steer_id": name} for name in in_order], place[np.concatenate(which)]


def _columns(run: Run, run_step: RunStep, names: list[str]) -> Iterator[pa.Table]:
    for shard in range(run.shards):
        table = run.read(run_step, shard, names, check=False)
        if table.num_rows != len(run.shard_range(shard)):
            place = run.shard_place(run_step, shard)
            raise DamagedShardError(f"{place} holds {table.num_rows} rows, which is not its shard of the run")
        yield table


def _numpy(column: Any) -> np.ndarray[Any, Any]:
    return np.asarray(column.to_numpy(zero_copy_only=False))
