"""How many new instructions a generator still gives: which rows of a run were new, and how many of the next would be.

A row is new when `dedup` keeps it: then no kept row before it is near, and nothing later changes that. So the rows in
order, block by block, are the saturation curve: it is measured, not modelled.

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
"""Rows of a block, and how many of the next rows are estimated."""

MOST_SETTINGS = 20
"""The most settings, or steering prompts, that are compared. More would have too few rows each."""

_BLOCKS = 10
# Settings, and for each row that dedup compared the number of the one it has.
_Settings = tuple[Sequence[dict[str, Any]], Counts]
_NO_SETTINGS: _Settings = ((), np.empty(0, np.int64))
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")
# Added to the number of pairs (Φ2), after Jeffreys: else a run without one repeat would have a standard error of 0.
_UNSEEN_PAIR = 0.5


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
    """The rows of one setting, those of them that were new, and the chance that its next row is new."""

    setting: dict[str, Any]
    rows: int
    new: int
    chance: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class Saturation:
    """The curve of a run and the estimates from it. Of the `rows` that dedup compared it kept `new`.

    `curve` holds blocks of 1,000 rows, or of a tenth of the run where that is less; the last one may be shorter.
    `apart` is ρ: 1 when every repeat is near one kept row only, so that the estimates rest on exact counts.
    `by_sampling` has an entry for each entry of the recipe's mix, `by_steering` one for each `steer_id`. Each is empty
    where there are fewer than two or more than MOST_SETTINGS.
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
    """The saturation of a run that has passed dedup, from a few columns of its shards.

    Raises RunError when dedup is not in the recipe, is not finished or got no rows, and DamagedShardError.
    """
    finder = run.step_adding("repeat_count")
    if finder is None:
        raise RunError("no step of the recipe says which rows are repeats")
    if not all(run.has_shard(finder, shard) for shard in range(run.shards)):
        raise RunError(f"not every row has come to {finder.name} yet")
    compared, near, new = _neighbors(run, finder)
    if not len(near):
        raise RunError(f"not one row came to {finder.name}")
    return Saturation(
        rows=len(near),
        new=int(new.sum()),
        curve=_curve(new),
        next=expected_new(near, new),
        apart=round(_apart(near, new), 6),
        by_sampling=_yields(_sampling(run, compared), near, new),
        by_steering=_yields(_steering(run, compared), near, new),
    )


def expected_new(near: Counts, new: Mask, rows: int = BLOCK) -> Next:
    """How many of the next `rows` rows would be new: at most as many as there are.

    `near` and `new` have an entry for each row in order: the rows near it, and whether dedup kept it. The error is that
    of predicting the number itself, its own chance included.
    """
    past, future = len(near), min(rows, len(near))  # n and m of the text above
    growth = future / past  # t
    groups = _Groups.of(near, new)
    # Good and Turing: the chance that the next row is new is Φ1 / n. It falls as the run goes on, so that there are at
    # most m times as many new rows.
    chance = groups.series(0) / past
    # Good and Toulmin: t Φ1 - t² Φ2 + ... is t times the series at -t.
    estimate = min(max(growth * groups.series(-growth), 0.0), future * chance)
    variance = groups.variance(past, future, estimate, chance)
    # Where groups overlap the estimate is too low, the more the smaller ρ is. How many of the latest rows were new is a
    # second estimate, which is too high: the difference is taken as an error.
    latest = future * float(new[-max(1, min(future, past // 4)) :].mean())
    variance += (1 - groups.own) * (latest - estimate) ** 2
    return Next(future, round(estimate, 2), round(variance**0.5, 2))


@dataclass(frozen=True, slots=True)
class _Groups:
    """The groups of kept rows. There are `counts[i]` groups whose kept row has `near[i]` repeats near it (c above).

    `own` is ρ: the probability that such a repeat belongs to the group.
    """

    near: Counts
    counts: Counts
    own: float

    @classmethod
    def of(cls, near: Counts, new: Mask) -> _Groups:
        values, counts = np.unique(near[new], return_counts=True)
        return cls(values, counts, _apart(near, new))

    def series(self, z: float) -> float:
        """Σ z^(k - 1) Φk, where a group counts for each size by the probability that it has that size."""
        # A group has k - 1 repeats, a binomial number of c with probability ρ. The mean of z^(k - 1) is then
        # (1 - ρ(1 - z))^c.
        return float((self.counts * (1 - self.own * (1 - z)) ** self.near).sum())

    def variance(self, past: int, future: int, estimate: float, chance: float) -> float:
        """The variance of the estimate less the true number, for groups that do not overlap."""
        growth = future / past
        # q, the chance that a row is new after the m rows to come: the derivative by t of t Σ (-t)^(k - 1) Φk, over n.
        # `falls` is t times what the series loses as t grows; the last term is the half pair nobody saw, a part of Φ2.
        falls = (
            growth
            * self.own
            * float(
                (
                    self.counts * self.near * (1 - self.own * (1 + growth)) ** np.maximum(self.near - 1, 0)
                ).sum()
            )
        )
        slope = self.series(-growth) - falls - 2 * growth * _UNSEEN_PAIR
        later = min(max(slope / past, 0.0), chance)
        # If the sizes of groups are Poisson variables, the variance is Σ t^(2k) Φk + new; Φ2 with the half pair.
        spread = growth**2 * (self.series(growth**2) + _UNSEEN_PAIR * growth**2) + max(
            estimate - _UNSEEN_PAIR * growth**2, 0.0
        )
        # As n and m are fixed numbers and not Poisson variables, it is less by (m q)² (1/n + 1/m).
        return max(spread - (future * later) ** 2 * (1 / past + 1 / future), 0.0)


def _apart(near: Counts, new: Mask) -> float:
    """ρ: of all pairs of a kept row and a repeat near it, the share in which the repeat is that row's own."""
    pairs = int(near[new].sum())
    # Every repeat is the own one of exactly one kept row.
    return (len(new) - int(new.sum())) / pairs if pairs else 1.0


def _curve(new: Mask) -> tuple[Block, ...]:
    """The new rows of each block."""
    rows = min(BLOCK, -(-len(new) // _BLOCKS))
    blocks = (new[start : start + rows] for start in range(0, len(new), rows))
    return tuple(Block(len(block), int(block.sum())) for block in blocks)


def _yields(settings_of_rows: _Settings, near: Counts, new: Mask) -> tuple[Yield, ...]:
    """The figures of each setting."""
    settings, which = settings_of_rows
    own = _apart(near, new)
    yields = []
    for number, setting in enumerate(settings):
        here = which == number
        rows, kept = int(here.sum()), here & new
        if not rows:
            continue
        # Φ1 among the rows of the setting: a group of a row with c near repeats has one row with probability (1 - ρ)^c.
        once = float(((1 - own) ** near[kept]).sum())
        # Esty's variance of Φ1 (Annals of Statistics 11, 1983): Φ1 (1 - Φ1 / n) + 2 Φ2. The rows of pairs, 2 Φ2, are
        # those with one other row near them.
        variance = once * (1 - once / rows) + int((near[here] == 1).sum()) + 2 * _UNSEEN_PAIR
        chance, error = once / rows, variance**0.5 / rows
        yields.append(Yield(setting, rows, int(kept.sum()), round(chance, 6), round(error, 6)))
    return tuple(yields)


def _neighbors(run: Run, finder: RunStep) -> tuple[list[Mask], Counts, Mask]:
    """For each shard which rows dedup compared; for those rows in order, the rows near each, and whether it is new."""
    compared: list[Mask] = []
    near: list[Any] = []
    new: list[Any] = []
    for table in _columns(run, finder, ["repeat_count", REJECTED.name]):
        # Null in rows that were out before, and in those near an instruction of another dataset.
        counts, here = table["repeat_count"], _numpy(pc.is_valid(table["repeat_count"]))
        compared.append(here)
        near.append(counts.drop_null().to_numpy())
        new.append(_numpy(pc.is_null(table[REJECTED.name]))[here])
    return compared, np.concatenate(near), np.concatenate(new)


def _sampling(run: Run, compared: list[Mask]) -> _Settings:
    """The settings in the recipe's mix, and by which of them each row was sampled."""
    mix = [draw.model_dump(include=set(_SAMPLING)) for draw in run.recipe.instruct.mix]
    settings = [setting for position, setting in enumerate(mix) if setting not in mix[:position]]
    drawer = run.step_adding(_SAMPLING[0])
    if drawer is None or not 1 < len(settings) <= MOST_SETTINGS:
        return _NO_SETTINGS
    which = []
    # Only columns in which the settings differ are read.
    differ = [name for name in _SAMPLING if len({setting[name] for setting in settings}) > 1]
    for table, here in zip(_columns(run, drawer, differ), compared, strict=True):
        numbers = np.full(int(here.sum()), -1, np.int8)
        columns = {name: _numpy(table[name])[here] for name in differ}
        for number, setting in enumerate(settings):
            # The recipe's number is rounded as the column was: 0.8 is another number in float32.
            same = [values == values.dtype.type(setting[name]) for name, values in columns.items()]
            numbers[np.logical_and.reduce(same)] = number
        which.append(numbers)
    return settings, np.concatenate(which)


def _steering(run: Run, compared: list[Mask]) -> _Settings:
    """The `steer_id`s of the rows, sorted, and which of them each row has."""
    step = run.step_adding("steer_id")
    if step is None:
        return _NO_SETTINGS
    names: dict[Any, int] = {}
    which = []
    for table, here in zip(_columns(run, step, ["steer_id"]), compared, strict=True):
        encoded = table["steer_id"].filter(pa.array(here)).combine_chunks().dictionary_encode("encode")
        numbers = [names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()]
        if len(names) > MOST_SETTINGS:  # no need to read further shards
            return _NO_SETTINGS
        which.append(np.array(numbers, np.int64)[_numpy(encoded.indices)])
    if len(names) < 2:
        return _NO_SETTINGS
    # They were numbered as they came up, which depends on the rows; the table is sorted, null last.
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
