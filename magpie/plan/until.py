"""How many rows to ask for next, so that as many are kept as a recipe wants: by what was kept of those so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from magpie.recipe import Recipe
from magpie.recipe.steer import Refill, values_in
from magpie.recipe.until import variable_of

Cell = tuple[str, ...]

_ERRORS = (
    2.0  # standard errors by which a share may be higher than measured: too many rows are seldom asked for
)
_SURE = 8  # rows by a steering prompt after which what it feeds is known from them alone
_MOST_CHOICES = 20_000  # prompts with their values that are looked at besides those that were tried
_FEEDS = 0.5  # a prompt feeds a cell that gets so much of what it gets from its best prompt


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept of `rows` asked for: how many, of each cell how many, and by steering.

    `by_choice` has of each `steer_id` how many rows were asked for, and how many of these each cell kept.
    """

    rows: int
    kept: int
    cells: Mapping[Cell, int] = field(default_factory=dict)
    by_choice: Mapping[str, tuple[int, Mapping[Cell, int]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Next:
    """How many rows there are to be, and the share of each steering prompt in the new ones; None as before."""

    rows: int
    shares: Mapping[str, float] | None = None


def with_until(
    overrides: Mapping[str, Any] | None, kept: int | None, most: int | None
) -> dict[str, Any] | None:
    """The changes of a recipe, with `kept` rows to be kept of `most` that are asked for."""
    if kept is None:
        return None if overrides is None else dict(overrides)
    limit = {} if most is None else {"until.most": most}
    return {**(overrides or {}), "until.kept": kept, **limit}


def first_rows_of(recipe: Recipe, recorded: Mapping[str, Any] | None) -> Recipe:
    """The recipe with the rows that a build begins with: those that are there, or so few that none is too many."""
    until = recipe.until
    there = _recorded_rows(recorded)
    if until is None:
        return _with_refills(recipe, recorded)
    wanted = until.kept if not until.by else max(1, until.kept // 4)
    shards = max(1, wanted // recipe.shard_rows if until.by else -(-wanted // recipe.shard_rows))
    rows = there or min(until.limit, shards * recipe.shard_rows)
    return _with_refills(recipe.model_copy(update={"rows": rows}), recorded)


def short_cells(recipe: Recipe, kept: Kept) -> dict[Cell, int]:
    """How many rows each cell lacks that has too few."""
    assert recipe.until is not None
    targets = recipe.until.targets(recipe.steer)
    lacks = {cell: target - kept.cells.get(cell, 0) for cell, target in targets.items()}
    return {cell: count for cell, count in lacks.items() if count > 0}


def is_reached(recipe: Recipe, kept: Kept) -> bool:
    """Whether enough rows are kept, and enough of each cell."""
    assert recipe.until is not None
    return kept.kept >= recipe.until.kept and not short_cells(recipe, kept)


def next_rows(recipe: Recipe, kept: Kept) -> Next | None:
    """What to ask for next; None where enough is kept, or the limit is reached."""
    until, shard = recipe.until, recipe.shard_rows
    assert until is not None
    if is_reached(recipe, kept) or kept.rows >= until.limit:
        return None
    short = short_cells(recipe, kept)
    needed, shares = _for_cells(recipe, kept, short) if short else (None, None)
    if needed is None and kept.kept < until.kept:
        needed = (until.kept - kept.kept) / _highest_share(kept.kept, kept.rows)
    if needed is None:  # a cell to which nothing has led so far
        needed = float(kept.rows)
    # Rounded down: a shard too few costs another round, a shard too many is paid for.
    more = max(1, int(needed) // shard) * shard
    # A shard that was not full is filled first.
    rows = min(until.limit, -(-kept.rows // shard) * shard + more)
    return Next(rows, shares)


def _for_cells(
    recipe: Recipe, kept: Kept, short: Mapping[Cell, int]
) -> tuple[float | None, dict[str, float] | None]:
    """How many rows the short cells need, and the prompts that feed them; None where nothing may lead there."""
    steer, until = recipe.steer, recipe.until
    if steer is None or until is None:
        rates = [kept.cells.get(cell, 0) / kept.rows for cell in short]
        fed = [count / rate for (cell, count), rate in zip(short.items(), rates, strict=True) if rate]
        return (max(fed), None) if fed else (None, None)
    asked: dict[str, float] = {}
    choices = dict.fromkeys([*kept.by_choice, *steer.every_id(_MOST_CHOICES)])
    named = [
        (at, variable_of(name)) for at, name in enumerate(until.by) if variable_of(name) in steer.variables
    ]
    for cell, count in short.items():
        rates_of = {choice: _rate(kept, choice, cell, named) for choice in choices}
        best = max(rates_of.values(), default=0.0)
        feeders = {choice: rate for choice, rate in rates_of.items() if rate and rate >= _FEEDS * best}
        # As high as they may well be: a prompt that few rows were steered by may feed much more than it did so far.
        highest = sum(
            _highest(rate, kept.by_choice.get(choice, (0, {}))[0]) for choice, rate in feeders.items()
        )
        for choice in feeders:
            asked[choice] = asked.get(choice, 0.0) + count / highest
    total = sum(asked.values())
    if not total:
        return None, None
    return total, {
        choice: round(rows / total, 6) for choice, rows in sorted(asked.items()) if rows / total > 1e-6
    }


def _rate(kept: Kept, choice: str, cell: Cell, named: Sequence[tuple[int, str]]) -> float:
    """Which part of the rows that a steering prompt leads to is kept in a cell; `named` are the cell's variables."""
    rows, cells = kept.by_choice.get(choice, (0, {}))
    if rows >= _SURE:
        return cells.get(cell, 0) / rows
    # Of a prompt that is hardly tried, its values say where it may lead, and all rows how many of them are kept.
    values = values_in(choice)
    leads = not named or all(values.get(name) == cell[at] for at, name in named)
    share = kept.kept if named else kept.cells.get(cell, 0)
    return (cells.get(cell, 0) + leads * share / kept.rows) / (rows + 1)


def _highest_share(kept: int, rows: int) -> float:
    """The share of rows that are kept, as high as it may well be."""
    return _highest(kept / rows, rows)


def _highest(share: float, rows: int) -> float:
    share = (share * rows + 1) / (rows + 1)
    return min(1.0, share + _ERRORS * sqrt(share * (1 - share) / max(rows, 1)))


def with_next(recipe: Recipe, step: Next) -> Recipe:
    """The recipe with the rows that come next, which its steering feeds to the cells that are short."""
    update: dict[str, Any] = {"rows": step.rows}
    if recipe.steer is not None:
        before = recipe.steer.refills
        last = before[-1].shares if before else None
        if step.shares is not None or last is not None:
            # From a whole shard on: rows that are there keep what they were steered by.
            refill = Refill(start=recipe.rows, shares=dict(step.shares or {}))
            update["steer"] = recipe.steer.model_copy(update={"refills": (*before, refill)})
    return recipe.model_copy(update=update)


def _with_refills(recipe: Recipe, recorded: Mapping[str, Any] | None) -> Recipe:
    """The recipe, steered as the rows that are there were."""
    steer = (recorded or {}).get("steer")
    refills = steer.get("refills") if isinstance(steer, dict) else None
    if recipe.steer is None or not refills:
        return recipe
    taken = tuple(Refill(**refill) for refill in refills)
    return recipe.model_copy(update={"steer": recipe.steer.model_copy(update={"refills": taken})})


def _recorded_rows(recorded: Mapping[str, Any] | None) -> int | None:
    rows = (recorded or {}).get("rows")
    return rows if isinstance(rows, int) and rows > 0 else None
