"""What a build would take over from what is there, and what it would make, step by step, before it begins.

Row by row it follows what each step would be given. Steps without a model are worked out on the way where they decide
which rows are out, such as a filter that lets more rows through. What a model would write is not known: rows whose fate
hangs on that are counted as those that may be taken over, or may be made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from magpie.errors import MagpieError
from magpie.plan.fingerprints import BoundPlan
from magpie.runs.ids import row_ids
from magpie.runs.run import Run, RunStep
from magpie.runs.standing import Source, as_made_now, given_rows, live_places, stands_by_row
from magpie.steps.base import REJECTED, PreparedWork, RowWork

_UNKNOWN = object()
"""The value of a column that a model is still to write."""


@dataclass(slots=True)
class Foreseen:
    """What a step would do: rows `taken` over and rows `made`, and of each how many it may be besides.

    A step that sees every row makes all of them again. `tokens` is about how many a model would write for the rows that
    are made, by what it wrote for a row before; None where no model writes, or nothing is known of it.
    """

    step: str
    is_global: bool = False
    taken: int = 0
    may_be_taken: int = 0
    made: int = 0
    may_be_made: int = 0
    tokens: int | None = None


@dataclass(slots=True)
class _Rows:
    """The rows of a shard as a step would be given them. `is_in` is True, False, or None while that is not known."""

    shard: int
    index: range
    is_in: list[bool | None]
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def knows(self, names: Sequence[str], place: int) -> bool:
        """Whether all these columns of a row are known."""
        return all(name in self.columns and self.columns[name][place] is not _UNKNOWN for name in names)


def foresee(run: Run, bound: BoundPlan, sources: Sequence[Source]) -> tuple[Foreseen, ...]:
    """Look at every shard of `run`, planned by `bound`, for what stands in `sources`. Writes nothing."""
    seen = {run_step.name: Foreseen(run_step.name, run_step.is_global) for run_step in run.steps}
    spent = _Spent(sources)
    for shard in range(run.shards):
        index = run.shard_range(shard)
        ids = row_ids(bound.id_prefix, index)
        rows = _Rows(shard, index, [True] * len(index), {"id": list(ids), "index": list(index)})
        for run_step in run.steps:
            at_step = _at_global if run_step.is_global else _at_row_step
            at_step(run_step, bound, sources, rows, seen[run_step.name])
    for run_step in run.steps:
        each = spent.each(run_step)
        if each is not None:
            one = seen[run_step.name]
            one.tokens = round(each * (one.made + one.may_be_made))
    return tuple(seen.values())


def _at_row_step(
    run_step: RunStep, bound: BoundPlan, sources: Sequence[Source], rows: _Rows, seen: Foreseen
) -> None:
    step, count = run_step.step, len(rows.index)
    stands: dict[int, dict[str, Any]] = {}
    for source in sources if stands_by_row(run_step) else ():
        if source.has(run_step, rows.shard):
            for place, made in _standing(source.run, run_step, rows).items():
                stands.setdefault(place, made)
    left = [place for place in range(count) if place not in stands and rows.is_in[place] is not False]
    seen.taken += sum(rows.is_in[place] is True for place in stands)
    seen.may_be_taken += sum(rows.is_in[place] is None for place in stands)
    seen.made += sum(rows.is_in[place] is True for place in left)
    seen.may_be_made += sum(rows.is_in[place] is None for place in left)
    known = {**_worked_out(run_step, bound, rows, left), **stands} if left else stands
    for name in step.adds.names:
        if name != REJECTED.name:
            # Rows that are out are not looked at again: what they would have does not matter.
            rows.columns[name] = [known.get(place, {}).get(name, _UNKNOWN) for place in range(count)]
    for place in range(count) if step.rejects else ():
        if rows.is_in[place] is False:
            continue
        if place not in known:
            rows.is_in[place] = None
        elif known[place][REJECTED.name] is not None:
            rows.is_in[place] = False


def _standing(earlier: Run, run_step: RunStep, rows: _Rows) -> dict[int, dict[str, Any]]:
    """What the step made of each row that stands in the earlier run, or would if it is still in."""
    reads = run_step.step.reads
    try:
        theirs = earlier.step(run_step.name)
        made, so_still = as_made_now(run_step, theirs, earlier.read(theirs, rows.shard, check=False))
        given = given_rows(earlier, theirs, rows.shard, reads)
        columns = {name: given[name].to_pylist() for name in ("id", *reads)}
        was_in = live_places(given)
    except (MagpieError, KeyError):
        return {}
    names = ("id", *reads)
    at = [
        place
        for place in was_in
        if place in so_still
        and place < len(rows.index)
        and rows.is_in[place] is not False
        and rows.knows(names, place)
        and all(columns[name][place] == rows.columns[name][place] for name in names)
    ]
    values = made.select(run_step.step.adds.names).take(pa.array(at, pa.int64())).to_pylist()
    return dict(zip(at, values, strict=True))


def _worked_out(
    run_step: RunStep, bound: BoundPlan, rows: _Rows, at: Sequence[int]
) -> dict[int, dict[str, Any]]:
    """What a step without a model makes of these rows, where it decides who is out and all that it reads is known."""
    step, work = run_step.step, bound.work[run_step.number - 1]
    at = [place for place in at if rows.is_in[place] is True and rows.knows(step.reads, place)]
    if not step.rejects or step.uses is not None or isinstance(work, PreparedWork) or not at:
        return {}
    if not isinstance(work, RowWork):
        return {}
    types = {field.name: field.type for each in bound.plan.steps for field in each.step.adds}
    given = {
        "id": pa.array([rows.columns["id"][place] for place in at], pa.string()),
        "index": pa.array([rows.index[place] for place in at], pa.int64()),
        REJECTED.name: pa.nulls(len(at), pa.string()),
    }
    for name in step.reads:
        if name not in given:
            given[name] = pa.array([rows.columns[name][place] for place in at], types[name])
    # In a thread of its own: in a notebook a loop is running here already.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="magpie-foresee") as beside:
        made = beside.submit(lambda: asyncio.run(work.run(pa.table(given), None))).result()
    return dict(zip(at, made.select(step.adds.names).to_pylist(), strict=True))


def _at_global(
    run_step: RunStep, _: BoundPlan, sources: Sequence[Source], rows: _Rows, seen: Foreseen
) -> None:
    """A step that sees every row: nothing of it changes where nothing before it did, else nothing is known of it."""
    stands = next((source for source in sources if run_step.name in source.unchanged), None)
    if stands is not None:
        made = stands.run.read(stands.run.step(run_step.name), rows.shard, check=False).to_pylist()
        seen.taken += sum(each is True for each in rows.is_in)
        for name in run_step.step.adds.names:
            if name == REJECTED.name:
                rows.is_in = [
                    False if row[name] is not None else before
                    for row, before in zip(made, rows.is_in, strict=True)
                ]
            else:
                rows.columns[name] = [row[name] for row in made]
        return
    seen.made += sum(each is True for each in rows.is_in)
    seen.may_be_made += sum(each is None for each in rows.is_in)
    for name in run_step.step.adds.names:
        if name != REJECTED.name:
            rows.columns[name] = [_UNKNOWN] * len(rows.index)
    if run_step.step.rejects:
        rows.is_in = [None if each is not False else False for each in rows.is_in]


class _Spent:
    """How many tokens each step's model wrote for a row that it worked on, in the latest run that has the step."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    def each(self, run_step: RunStep) -> float | None:
        """The mean over a few shards; None where no model writes, or no run has the step."""
        name = run_step.step.token_column
        for source in self._sources:
            if name is None:
                break
            try:
                theirs = source.run.step(run_step.name)
                counts = [
                    sum(tokens) if isinstance(tokens, list) else tokens
                    for shard in range(min(source.run.shards, 8))
                    for tokens in source.run.read(theirs, shard, [name], check=False)[name].to_pylist()
                    if tokens is not None
                ]
            except MagpieError:
                continue
            if counts:
                return sum(counts) / len(counts)
        return None
