"""What takes a shard through the steps of a phase. It exists once: builds and samples run it, in any process.

A worker is given a run's files, a bound plan, a phase, an engine and a place to report to. It asks nobody for anything
else: what a shard is made from comes with the task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from magpie.errors import DamagedShardError, RunError, StoppedError
from magpie.execution.base import Began, Committed, Report, ShardDone, ShardTask, TookOver
from magpie.execution.isolation import IsolatedEngine
from magpie.execution.recall import recall
from magpie.execution.scheduler import EngineQueue, QueuedEngine
from magpie.plan import BoundPlan, Phase
from magpie.plan.phases import needs_engine
from magpie.runs.ids import row_ids
from magpie.runs.manifest import lineage_after
from magpie.runs.record import ingredients_of
from magpie.runs.run import Run, RunStep, with_columns
from magpie.runs.sealing import packed
from magpie.runs.standing import EarlierRuns, Standing, live_places, put_together
from magpie.steps.base import REJECTED, PreparedWork, RowWork, SequentialWork
from magpie.storage.sealed import Shard, Stamp, inspect_shard, write_shard


async def delivered_at_once() -> None:
    """What is reported inside one process is delivered when the report returns."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One loaded engine, if the phase needs one, and the phase whose steps it does.

    `queue` keeps count of what the engine has to do. `is_over` says whether the build has ended: a thread may outlive
    it, and the folder is then no longer ours to write to. `delivered` returns when all that was reported has reached
    whoever watches over this process. With `loads_nothing`, a shard is taken only as far as its rows stand in earlier
    runs, or need nothing that has to be loaded.
    """

    run: Run
    bound: BoundPlan
    phase: Phase
    queue: EngineQueue | None
    report: Report
    is_over: Callable[[], bool] = lambda: False
    delivered: Callable[[], Awaitable[None]] = delivered_at_once
    loads_nothing: bool = False
    _earlier: list[EarlierRuns] = field(default_factory=list)

    async def take(self, task: ShardTask) -> None:
        """Take one shard through the steps of the phase, and commit what each adds."""
        shard, lineage = task.shard, task.made_from
        rows: pa.Table | None = (
            None  # what the steps of this phase have made of the shard so far, while it is known
        )
        engine = None if self.queue is None else QueuedEngine(self.queue, shard, self.report)
        asked: QueuedEngine | IsolatedEngine | None = engine
        if engine is not None and task.isolation is not None:
            asked = IsolatedEngine(engine, shard, task.isolation, self.report, self.delivered)
        try:
            for run_step in self.phase.steps:
                stale = task.committed.get(run_step.number)
                if stale is not None and stale.stamp.made_from == lineage:
                    lineage, rows = lineage_after(lineage, stale), None
                    continue
                given = await asyncio.to_thread(self._rows, run_step, shard, rows)
                stands = await asyncio.to_thread(self._standing, run_step, given, task)
                if self.loads_nothing and self._needs_loading(run_step, given, stands):
                    return
                self.report(Began(run_step.name, shard))
                if engine is not None:
                    engine.step = run_step.name
                result = await self._work(run_step, given, asked, task, stands)
                stamp = stamp_for(self.run, self.bound, run_step, shard, lineage)
                mine = await asyncio.to_thread(self._commit, run_step, result, stamp, stale)
                if mine is not None:
                    committed, rows = mine, with_columns(given, result)
                else:  # a worker that was thought dead was faster: its rows count, not these
                    committed, result = await asyncio.to_thread(self._reread, run_step, shard)
                    rows = None
                rejected = rejections(result)
                self.report(
                    Committed(run_step.name, run_step.number, shard, result.num_rows, rejected, committed)
                )
                lineage = lineage_after(lineage, committed)
            self.report(ShardDone(shard))
        finally:
            if engine is not None:
                await engine.drop()  # one row's request failed: the other rows' are still under way
            if self.queue is not None:
                self.queue.leave(shard)

    async def _work(
        self,
        run_step: RunStep,
        rows: pa.Table,
        engine: QueuedEngine | IsolatedEngine | None,
        task: ShardTask,
        stands: Standing | None,
    ) -> pa.Table:
        work = self.bound.work[run_step.number - 1]
        assert isinstance(work, RowWork), "a global step is done by the driver"
        if isinstance(work, SequentialWork):
            await asyncio.to_thread(recall, self.run, run_step, work, task.shard, task.earlier)
        if stands is None:
            result = await work.run(rows, engine if needs_engine(run_step) else None)
        else:
            at = self._left(run_step, rows, stands)
            made = None
            if at:
                left = rows.take(pa.array(at))
                made = await work.run(left, engine if needs_engine(run_step) else None)
                check_result(run_step, left, made)
            result = await asyncio.to_thread(put_together, rows, run_step.step.adds, stands, at, made)
            self.report(TookOver(run_step.name, task.shard, len(stands.at)))
        check_result(run_step, rows, result)
        return result

    def _standing(self, run_step: RunStep, rows: pa.Table, task: ShardTask) -> Standing | None:
        """The rows that stand in earlier runs."""
        locations = task.sources.get(run_step.number)
        if not locations:
            return None
        if not self._earlier:
            self._earlier.append(EarlierRuns(self.bound.plan.method))
        return self._earlier[0].standing(locations, run_step, task.shard, rows)

    def _left(self, run_step: RunStep, rows: pa.Table, stands: Standing) -> list[int]:
        """The positions of the rows that the step has to work on, besides those that stand; none where all are out."""
        standing = set(stands.at)
        if self._loads(run_step) and set(live_places(rows)) <= standing:
            return []  # rows that are out get null, for which nothing has to be loaded
        return [place for place in range(rows.num_rows) if place not in standing]

    def _needs_loading(self, run_step: RunStep, rows: pa.Table, stands: Standing | None) -> bool:
        """Whether something has to be loaded for the rows that do not stand."""
        if not self._loads(run_step):
            return False
        return stands is None or bool(self._left(run_step, rows, stands))

    def _loads(self, run_step: RunStep) -> bool:
        return needs_engine(run_step) or isinstance(self.bound.work[run_step.number - 1], PreparedWork)

    def _rows(self, run_step: RunStep, shard: int, made: pa.Table | None) -> pa.Table:
        """What a step is given: from memory where the phase has just made it, else from disk."""
        reads = run_step.step.reads
        if run_step.number == 1:
            return first_rows(self.run, self.bound, shard)
        if made is not None and {"id", "index", REJECTED.name, *reads} <= set(made.column_names):
            return made
        return self.run.rows(shard, reads, before=run_step)

    def _commit(self, run_step: RunStep, result: pa.Table, stamp: Stamp, stale: Shard | None) -> Shard | None:
        """The committed shard; None where the very shard is there already."""
        if self.is_over():
            raise StoppedError("the build was stopped")
        try:
            return commit(self.run, self.bound, run_step, result, stamp, stale=stale)
        except RunError as error:
            if isinstance(error.__cause__, FileExistsError) and self._is_committed(run_step, stamp):
                return None
            raise

    def _is_committed(self, run_step: RunStep, stamp: Stamp) -> bool:
        try:
            name = self.run.shard_name(run_step, stamp.shard)
            return inspect_shard(self.run.storage, name).stamp == stamp
        except DamagedShardError:
            return False

    def _reread(self, run_step: RunStep, shard: int) -> tuple[Shard, pa.Table]:
        committed = inspect_shard(self.run.storage, self.run.shard_name(run_step, shard))
        columns = [REJECTED.name] if run_step.step.rejects else ["id"]
        return committed, self.run.read(run_step, shard, columns)


def prepared_work(bound: BoundPlan, steps: tuple[RunStep, ...]) -> list[tuple[RunStep, PreparedWork[Any]]]:
    """The work of these steps that has something to load before it begins."""
    works = ((run_step, bound.work[run_step.number - 1]) for run_step in steps)
    return [(run_step, work) for run_step, work in works if isinstance(work, PreparedWork)]


def first_rows(run: Run, bound: BoundPlan, shard: int) -> pa.Table:
    """A shard's rows before any step: ids and positions."""
    positions = run.shard_range(shard)
    return pa.table(
        {
            "id": pa.array(row_ids(bound.id_prefix, positions), pa.string()),
            "index": pa.array(positions, pa.int64()),
            REJECTED.name: pa.nulls(len(positions), pa.string()),
        }
    )


def stamp_for(run: Run, bound: BoundPlan, run_step: RunStep, shard: int, made_from: str) -> Stamp:
    """What the shard says it is."""
    positions = run.shard_range(shard)
    return Stamp(
        step=run_step.name,
        shard=shard,
        first=positions.start,
        rows=len(positions),
        total=run.recipe.rows,
        fingerprint=bound.fingerprints[run_step.number - 1],
        made_from=made_from,
    )


def commit(
    run: Run, bound: BoundPlan, run_step: RunStep, table: pa.Table, stamp: Stamp, *, stale: Shard | None
) -> Shard:
    """Write a step's shard, in the place of the `stale` one or under a name that is free. Raises RunError."""
    try:
        name = run.shard_name(run_step, stamp.shard)
        about = _about(run, bound)
        return write_shard(run.storage, name, table, stamp, replace=stale or False, about=about)
    except FileExistsError as error:
        place = run.shard_place(run_step, stamp.shard)
        raise RunError(
            f"{place} is there already, and this build did not write it; end whatever else writes to "
            f"{run.storage.location}, then run the same command again"
        ) from error


def _about(run: Run, bound: BoundPlan) -> str:
    if run.about is None:
        run.about = packed(run.recipe.model_dump(mode="json"), ingredients_of(run.recipe, bound.ingredients))
    return run.about


def check_result(run_step: RunStep, rows: pa.Table, result: pa.Table) -> None:
    """Raise RunError for a step that loses, doubles or reorders rows: nothing of that reaches the disk."""
    expected = pa.schema([pa.field("id", pa.string()), *run_step.step.adds])
    if not result.schema.equals(expected) or not result["id"].equals(rows["id"]):
        raise RunError(
            f"step {run_step.name} gave other rows or columns than it was given; please report this"
        )


def rejections(table: pa.Table) -> int:
    """How many rows a step rejected."""
    return table.num_rows - table[REJECTED.name].null_count if REJECTED.name in table.column_names else 0
