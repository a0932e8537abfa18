"""A build on this machine: phases in order, shards streaming through each, the engine never idle.

Inside a phase every shard is a task of its own, at its own step. New shards are let in whenever the engine has fewer
completions waiting than twice its slots, so a shard's stragglers never hold the engine up; only the end of a phase
drains it.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from magpie.engines import open_engine, open_scorer
from magpie.engines.base import Engine, Scorer
from magpie.errors import DamagedShardError, EngineError, RunError, StoppedError
from magpie.execution.scheduler import Gauge, MeteredEngine
from magpie.neighbors.vectors import ProgressCallback
from magpie.plan.fingerprints import Identity, model_key
from magpie.plan.phases import Phase, Plan, PlannedStep
from magpie.runs.dataset import discard_dataset
from magpie.runs.lineage import Standing
from magpie.runs.run import Run, merge_reasons
from magpie.runs.shards import Stamp, quarantine, read_shard, storage_errors, write_shard
from magpie.steps.base import NOTE, REJECTED, GlobalStep, Prepared, RowStep, Watched

if TYPE_CHECKING:
    from magpie.execution.progress import Progress

_SHARDS_WITHOUT_ENGINE = 2


class LocalBuild:
    """Takes a run from wherever it stands to where it should be."""

    def __init__(self, run: Run, identity: Identity, progress: Progress) -> None:
        self._run = run
        self._plan: Plan = run.plan
        self._identity = identity
        self._progress = progress
        self._engine: Engine | Scorer | None = None
        self._engine_key = ""
        self._standing = Standing(run)
        self._over = False

    async def build(self, *, stop_after: str | None = None) -> None:
        """Make every shard that is missing, in phases. Raises EngineError, StorageError or DamagedShardError."""
        await asyncio.to_thread(self._look)
        try:
            for phase in self._plan.phases:
                steps = phase.steps
                if stop_after in [step.name for step in steps]:
                    last = next(at for at, step in enumerate(steps) if step.name == stop_after)
                    steps = steps[: last + 1]
                await self._phase(Phase(steps, phase.model))
                if stop_after in [step.name for step in steps]:
                    return
        finally:
            self._over = True
            await self._close_engine()

    @property
    def lineage(self) -> str:
        """The lineage of the finished run: what the dataset is made from."""
        end = self._standing.end
        assert end is not None
        return end

    # What is there already

    def _look(self) -> None:
        """Find the shards that stand; put damaged ones in quarantine."""
        with storage_errors(self._run.folder):
            for planned in self._plan.steps:
                (self._run.folder / "steps" / planned.folder).mkdir(parents=True, exist_ok=True)
        self._standing, damaged = Standing.look(self._run)
        for planned, shard in self._standing.places():
            found = self._standing.get(planned, shard)
            if found is not None and found.stamp != self._stamp(planned, shard, found.stamp.made_from):
                path = self._run.shard_path(planned, shard)
                misplaced = DamagedShardError(f"{path} is stamped for another place or recipe")
                damaged.append((planned, shard, misplaced))
        for planned, shard, error in damaged:
            self._standing.drop(planned, shard)
            place = quarantine(self._run.folder, self._run.shard_path(planned, shard))
            self._progress.note(f"{str(error).split(';')[0]}; moved to {place}, making it again")
        for planned, shard in self._standing.places():
            if self._standing.stands(planned, shard):
                reasons = self._reasons_there(planned, shard)
                self._progress.found(planned.name, len(self._plan.shard_range(shard)), reasons)

    def _reasons_there(self, planned: PlannedStep, shard: int) -> int:
        if REJECTED.name not in planned.step.adds.names:
            return 0
        return _rejections(read_shard(self._run.shard_path(planned, shard), [REJECTED.name], check=False))

    def _missing(self, planned: PlannedStep) -> list[int]:
        """The shards of a step that do not stand."""
        return [shard for shard in range(self._plan.shards) if not self._standing.stands(planned, shard)]

    def _stamp(self, planned: PlannedStep, shard: int, made_from: str) -> Stamp:
        positions = self._plan.shard_range(shard)
        return Stamp(
            step=planned.name,
            shard=shard,
            first=positions.start,
            rows=len(positions),
            total=self._plan.recipe.rows,
            fingerprint=self._identity.fingerprints[planned.number - 1],
            made_from=made_from,
        )

    # Phases

    async def _phase(self, phase: Phase) -> None:
        missing = [self._missing(planned) for planned in phase.steps]
        if not any(missing):
            return
        discard_dataset(self._run)
        if phase.is_global:
            self._progress.doing(phase.name)
            await asyncio.to_thread(self._run_global, phase.steps[0])
            return
        engine = await self._engine_for(phase) if phase.generates else None
        first = next(at for at, shards in enumerate(missing) if shards)
        large = [planned.step for planned in phase.steps[first:] if isinstance(planned.step, Prepared)]
        try:
            for step in large:
                self._progress.doing(f"loading what {step.name} needs")
                await step.prepare()
            self._progress.doing(phase.name)
            await self._stream(phase, sorted(set().union(*missing)), engine)
        finally:
            self._progress.log_prefix_cache([planned.name for planned in phase.steps])
            for step in large:
                await step.close()

    async def _stream(self, phase: Phase, todo: list[int], engine: Engine | Scorer | None) -> None:
        """Let shards in as the engine asks for them, until all are through."""
        gauge = Gauge(slots=engine.model.slots if engine is not None else 0)
        rows = self._plan.recipe.shard_rows
        most = 4 * -(-2 * gauge.slots // rows) + 4 if engine is not None else _SHARDS_WITHOUT_ENGINE
        queue, running = deque(todo), set[asyncio.Task[None]]()
        try:
            while queue or running:
                while queue and (
                    len(running) < most if engine is None else gauge.has_room(len(running), most)
                ):
                    shard = queue.popleft()
                    gauge.promised[shard] = len(self._plan.shard_range(shard))
                    metered = None if engine is None else MeteredEngine(engine, gauge, self._progress, shard)
                    running.add(asyncio.create_task(self._shard(phase, shard, metered, gauge)))
                gauge.hungry.clear()
                hungry = [asyncio.create_task(gauge.hungry.wait())] if queue else []
                done, _ = await asyncio.wait({*running, *hungry}, return_when=asyncio.FIRST_COMPLETED)
                for waiting in hungry:
                    waiting.cancel()
                for task in done.difference(hungry):
                    running.discard(cast("asyncio.Task[None]", task))
                    task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _shard(self, phase: Phase, shard: int, engine: MeteredEngine | None, gauge: Gauge) -> None:
        """Take one shard through the steps of a phase."""
        carried: pa.Table | None = None
        try:
            for planned in phase.steps:
                if self._standing.stands(planned, shard):
                    carried = None
                    continue
                rows = await asyncio.to_thread(self._rows, planned, shard, carried)
                if engine is not None:
                    engine.step = planned.name
                self._progress.began(planned.name)
                step = self._ready(planned)
                result = await step.run(rows, cast("Engine", engine) if planned.generates else None)
                self._check(planned, rows, result)
                await asyncio.to_thread(self._commit, planned, shard, result)
                self._progress.committed(planned.name, shard, result.num_rows, _rejections(result))
                carried = _carry(rows, result)
        finally:
            gauge.promised.pop(shard, None)
            gauge.hungry.set()

    def _rows(self, planned: PlannedStep, shard: int, carried: pa.Table | None) -> pa.Table:
        """What a step is given: from memory where the phase has just made it, else from disk."""
        wanted = ["id", "index", REJECTED.name, *planned.step.reads]
        wanted = list(dict.fromkeys(wanted))
        if planned.number == 1:
            positions = self._plan.shard_range(shard)
            ids = pa.array(self._identity.row_ids(positions), pa.string())
            none = pa.nulls(len(positions), pa.string())
            return pa.table({"id": ids, "index": pa.array(positions, pa.int64()), REJECTED.name: none})
        if carried is not None and set(wanted) <= set(carried.column_names):
            return carried
        return self._run.rows(shard, planned.step.reads, before=planned)

    def _ready(self, planned: PlannedStep) -> RowStep:
        step: Any = planned.step
        if planned.chat_model is None:
            return cast("RowStep", step)
        key = model_key(planned.chat_model)
        if planned.reads_as == "transcript":
            step = step.with_transcript(self._identity.transcripts[key])
        elif planned.reads_as == "plain":
            step = step.with_plain(self._identity.plains[key])
        else:
            step = step.with_chat(self._identity.chats[key])
        return cast("RowStep", step)

    def _run_global(self, planned: PlannedStep) -> None:
        """Read the whole column, work it out, write it shard by shard."""
        self._progress.began(planned.name)
        shards = range(self._plan.shards)
        given = [pa.concat_tables(self._run.rows(n, planned.step.reads, before=planned) for n in shards)]
        ids = given[0].select(["id"])
        step = cast("GlobalStep", planned.step)
        if isinstance(step, Watched):
            step = step.with_watch(self._watch(planned.name))
        result = step.run_all(given.pop())  # the step alone holds it now, and can let go of what it has read
        if NOTE in (result.schema.metadata or {}):
            said = json.loads(result.schema.metadata[NOTE])
            facts = [f"{key.replace('_', ' ')} {value}" for key, value in said.items() if value is not None]
            self._progress.note(f"{planned.name}: {', '.join(facts)}")
        self._check(planned, ids, result)
        for shard in shards:
            if not self._standing.stands(planned, shard):
                positions = self._plan.shard_range(shard)
                part = result.slice(positions.start, len(positions))
                self._commit(planned, shard, part)
                self._progress.committed(planned.name, shard, part.num_rows, _rejections(part))

    def _watch(self, name: str) -> ProgressCallback:
        """Shows how far a global step is, and ends it when the build is over."""

        def watch(what: str, done: int, total: int) -> None:
            if self._over:
                raise StoppedError("the build was stopped")
            self._progress.moved(name, what, done, total)

        return watch

    def _check(self, planned: PlannedStep, rows: pa.Table, result: pa.Table) -> None:
        """A step that loses, doubles or reorders rows is a fault of ours: nothing of it reaches the disk."""
        expected = pa.schema([pa.field("id", pa.string()), *planned.step.adds])
        if not result.schema.equals(expected) or not result["id"].equals(rows["id"]):
            raise RunError(
                f"step {planned.name} gave other rows or columns than it was given; please report this"
            )

    def _commit(self, planned: PlannedStep, shard: int, result: pa.Table) -> None:
        made_from = self._standing.source(planned, shard)
        assert made_from is not None
        if self._over:  # this thread has outlived a build that was stopped: the folder is no longer ours
            raise StoppedError("the build was stopped")
        path = self._run.shard_path(planned, shard)
        self._standing.put(planned, shard, write_shard(path, result, self._stamp(planned, shard, made_from)))

    # The engine

    async def _engine_for(self, phase: Phase) -> Engine | Scorer:
        """The engine or scorer that holds the phase's model: the one that is loaded, when it is the same."""
        model = phase.model
        assert model is not None
        key = f"{'scorer' if phase.scores else 'engine'} {model_key(model)}"
        if self._engine is not None and self._engine_key == key:
            return self._engine
        await self._close_engine()
        self._progress.doing(f"loading {model.model}")
        self._engine = await (open_scorer(model) if phase.scores else open_engine(model))
        self._engine_key = key
        info = self._engine.model
        self._progress.log.write("loaded", model=info.name, revision=info.revision, engine=info.engine)
        return self._engine

    async def _close_engine(self) -> None:
        if self._engine is not None:
            engine, self._engine = self._engine, None
            with suppress(EngineError):
                await engine.close()


def _rejections(table: pa.Table) -> int:
    """How many rows a step rejected."""
    return table.num_rows - table[REJECTED.name].null_count if REJECTED.name in table.column_names else 0


def _carry(rows: pa.Table, result: pa.Table) -> pa.Table:
    """The rows with the step's columns: new ones beside them, others anew; a reason given earlier stays."""
    for name in result.column_names:
        column = result[name]
        if name == REJECTED.name:
            column = merge_reasons([rows[name], column], rows.num_rows)
        if name in rows.column_names:
            rows = rows.set_column(rows.column_names.index(name), name, column)
        else:
            rows = rows.append_column(name, column)
    return rows
