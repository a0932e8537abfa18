"""Rows that stand: what a step made of a row in an earlier run is what it would make of it here.

That is so where both runs have the step with the same settings, model and template, and the row is given the same
values of all that the step reads. What came of the steps between does not matter: another judge changes no letter of
what a response is made from. Seeds follow from a row's position, which is the same in both runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from magpie.errors import DamagedShardError, MagpieError
from magpie.runs.manifest import Manifest
from magpie.runs.record import Ingredients, recorded_ingredients
from magpie.runs.run import Run, RunStep
from magpie.steps import Method
from magpie.steps.base import REJECTED, RowStep
from magpie.storage import open_storage


@dataclass(frozen=True, slots=True)
class Source:
    """An earlier run. `current` holds, by the name of each step that both runs make alike, its whole shards.

    A shard counts where it was made from what lies before it now: only then is it known what the step was given.
    `unchanged` are the steps of which everything stands, as nothing before them differs.
    """

    run: Run
    current: Mapping[str, frozenset[int]]
    unchanged: frozenset[str] = frozenset()

    @property
    def location(self) -> str:
        """Where it lies, for a worker to open it again."""
        return self.run.storage.location

    def has(self, run_step: RunStep, shard: int) -> bool:
        """Whether rows of this shard may stand."""
        return shard in self.current.get(run_step.name, ())


def source_of(run: Run, earlier: Run, ingredients: Ingredients) -> Source | None:
    """What `earlier` has for `run`, whose ingredients these are; None where it has other rows. Reads every byte."""
    theirs = recorded_ingredients(earlier.storage)
    if (
        theirs is None
        or earlier.recipe.name != run.recipe.name
        or earlier.recipe.shard_rows != run.recipe.shard_rows
        or not run.recipe.steered_alike(earlier.recipe)
    ):
        return None
    names = {run_step.name for run_step in run.steps if stands_by_row(run_step)}
    alike = [
        run_step
        for run_step in earlier.steps
        if run_step.name in names
        and _makes_alike(run.step(run_step.name), theirs.get(run_step.name), ingredients[run_step.name])
    ]
    if not alike:
        return None
    manifest, _ = Manifest.scan(earlier)
    unchanged: set[str] = set()
    for mine, other in zip(run.steps, earlier.steps, strict=False):
        if mine.name != other.name or theirs.get(mine.name) != ingredients[mine.name]:
            break
        if run.recipe.rows != earlier.recipe.rows or not all(
            manifest.is_current(other, shard) for shard in range(earlier.shards)
        ):
            break
        unchanged.add(mine.name)
    current = {
        run_step.name: frozenset(
            shard for shard in range(earlier.shards) if manifest.is_current(run_step, shard)
        )
        for run_step in alike
    }
    return Source(earlier, current, frozenset(unchanged))


def _makes_alike(run_step: RunStep, then: dict[str, Any] | None, now: dict[str, Any]) -> bool:
    """Whether the step makes some rows alike with what decides its output `then` and `now`."""
    if then is None or not isinstance(then.get("settings"), dict):
        return False
    assert isinstance(run_step.step, RowStep)
    others = [{key: value for key, value in each.items() if key != "settings"} for each in (then, now)]
    return others[0] == others[1] and run_step.step.makes_alike(then["settings"], now["settings"])


def as_made_now(run_step: RunStep, earlier: RunStep, made: pa.Table) -> tuple[pa.Table, frozenset[int]]:
    """What an earlier run's step made, with the columns of now, and the positions of the rows that are so still."""
    step = run_step.step
    if isinstance(step, RowStep) and step.settings != earlier.step.settings:
        made, is_so = step.as_now(made)
        return made, frozenset(pc.indices_nonzero(pc.fill_null(is_so, False)).to_pylist())
    return made, frozenset(range(made.num_rows))


def stands_by_row(run_step: RunStep) -> bool:
    """Whether what the step makes of a row follows from that row alone."""
    return isinstance(run_step.step, RowStep) and run_step.step.by_row


@dataclass(slots=True)
class Standing:
    """The rows of a shard that stand. `at` are their positions in the shard, `columns` what the step made of them."""

    at: list[int] = field(default_factory=list)
    columns: pa.Table | None = None

    def add(self, at: Sequence[int], columns: pa.Table) -> None:
        """More of them."""
        self.at += at
        self.columns = columns if self.columns is None else pa.concat_tables([self.columns, columns])


class EarlierRuns:
    """Earlier runs that a worker looks into, each opened once."""

    def __init__(self, method: Method | None) -> None:
        self._method = method
        self._opened: dict[str, Run | None] = {}

    def standing(
        self, locations: Sequence[str], run_step: RunStep, shard: int, rows: pa.Table
    ) -> Standing | None:
        """Which of the shard's rows, as they are given to the step, stand in these runs; None where none do."""
        found = Standing()
        for location in locations:
            earlier = self._open(location)
            if earlier is not None:
                look_up(earlier, run_step, shard, rows, found)
        return found if found.at else None

    def _open(self, location: str) -> Run | None:
        if location not in self._opened:
            try:
                self._opened[location] = Run.open(open_storage(location), self._method)
            except MagpieError:  # it is gone: its rows are made again
                self._opened[location] = None
        return self._opened[location]


def look_up(earlier: Run, run_step: RunStep, shard: int, rows: pa.Table, found: Standing) -> None:
    """Add to `found` the rows that are in and stand in an earlier run, and are not found yet."""
    seen = set(found.at)
    at = [place for place in live_places(rows) if place not in seen]
    try:
        theirs = earlier.step(run_step.name)
        made, so_still = as_made_now(run_step, theirs, earlier.read(theirs, shard))
        given = given_rows(earlier, theirs, shard, run_step.step.reads)
        at = [place for place in at if place in so_still]
        stands = same_rows(rows, given, run_step.step.reads, at)
        if stands:
            found.add(stands, made.select(["id", *run_step.step.adds.names]).take(pa.array(stands)))
    except (DamagedShardError, KeyError):  # what cannot be read, or has other columns, is made again
        return


def given_rows(run: Run, run_step: RunStep, shard: int, reads: Sequence[str]) -> pa.Table:
    """A shard's rows as a step was given them."""
    rows = run.rows(shard, reads, before=run_step)
    if "id" not in rows.column_names:  # before the first step
        rows = rows.append_column("id", run.read(run_step, shard, ["id"])["id"])
    return rows


def same_rows(rows: pa.Table, given: pa.Table, reads: Sequence[str], at: Sequence[int]) -> list[int]:
    """Which of the rows at these positions are in on both sides, and are given the same values of all columns read.

    Both hold a shard from its first row on; one may have more rows. Raises KeyError for a column that is not there.
    """
    at = [place for place in at if place < given.num_rows]
    was_in = set(live_places(given))
    at = [place for place in at if place in was_in]
    for name in ("id", *reads):
        mine, theirs = (_values(table[name], at) for table in (rows, given))
        at = [place for place, one, other in zip(at, mine, theirs, strict=True) if one == other]
    return at


def live_places(rows: pa.Table) -> list[int]:
    """The positions of the rows that are in."""
    places: list[int] = pc.indices_nonzero(pc.is_null(rows[REJECTED.name])).to_pylist()
    return places


def _values(column: pa.ChunkedArray, at: Sequence[int]) -> list[Any]:
    values: list[Any] = column.take(pa.array(at, pa.int64())).to_pylist()
    return values


def put_together(
    rows: pa.Table, adds: pa.Schema, stands: Standing, at: Sequence[int], made: pa.Table | None
) -> pa.Table:
    """What a step adds to a shard: to rows that stand what it was, to those `at` what was `made`, to others null."""
    schema = pa.schema([pa.field("id", pa.string()), *adds])
    parts = [part.select(schema.names).cast(schema) for part in (stands.columns, made) if part is not None]
    places: list[int | None] = [None] * rows.num_rows
    for place, position in enumerate([*stands.at, *(at if made is not None else ())]):
        places[position] = place
    whole = pa.concat_tables(parts).combine_chunks().take(pa.array(places, pa.int64()))
    # Of rows that are out even the id would be null.
    return whole.set_column(0, schema.field(0), rows["id"].cast(pa.string())).combine_chunks()
