"""A run taken from wherever it stands to where it should be, phase by phase.

The driver looks at what is there, gives shards to an executor, does the steps that see every row, and keeps count. It
runs in the process that holds the run's lock.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

import pyarrow as pa

from magpie.errors import RunError, StoppedError
from magpie.execution.base import (
    Advanced,
    Began,
    Committed,
    Event,
    Executor,
    Found,
    Noted,
    PhaseEnded,
    Report,
    ShardTask,
    Working,
)
from magpie.execution.gate import GateChecker, gate_checks
from magpie.execution.scan import scan
from magpie.execution.worker import Worker, check_result, commit, first_rows, rejections, stamp_for
from magpie.plan import BoundPlan, Phase
from magpie.runs.kept import discard_dataset
from magpie.runs.manifest import Manifest
from magpie.runs.run import Run, RunStep
from magpie.runs.standing import Source, stands_by_row
from magpie.steps.base import NOTE, REJECTED, GlobalWork
from magpie.storage.sealed import Shard


class Driver:
    """Builds `run` by `bound` on an executor, and reports what happens. `shards` are those to make; by default all.

    `find_sources` gives the earlier runs in which rows stand that need not be made again: it is called when something
    is missing.
    `gate_checker` does the checks of the recipe's gate; without it there are none.
    """

    def __init__(
        self,
        run: Run,
        bound: BoundPlan,
        executor: Executor,
        report: Report,
        *,
        shards: Sequence[int] | None = None,
        find_sources: Callable[[], Sequence[Source]] = tuple,
        gate_checker: GateChecker | None = None,
    ) -> None:
        self._run, self._bound = run, bound
        self._executor, self._report = executor, report
        self._shards = range(run.shards) if shards is None else shards
        self._find_sources = find_sources
        self._sources: Sequence[Source] | None = None
        self._gate_checker = gate_checker
        self._manifest = Manifest(run)
        self._counted: set[tuple[int, int]] = set()
        self._rejected_rows = 0
        self._is_over = self._is_draining = False

    async def build(self, *, stop_after: str | None = None) -> None:
        """Make every shard that is missing, in phases. Raises EngineError, StorageError or DamagedShardError."""
        await asyncio.to_thread(self._scan)
        try:
            for phase in self._bound.plan.phases:
                part = phase if stop_after is None else phase.up_to(stop_after)
                await self._phase(part)
                if part.steps[-1].name == stop_after:
                    return
        finally:
            self._is_over = True

    def drain(self) -> bool:
        """Begin with nothing more; whether shards are in flight, after which `build` raises StoppedError."""
        self._is_draining = True
        in_flight = self._executor.drain()
        if in_flight:
            self._report(Noted("stopping: what is in flight is finished, if the time of grace allows it"))
        return in_flight

    @property
    def sources(self) -> Sequence[Source]:
        """The earlier runs in which rows stand; none where nothing was missing."""
        return self._sources or ()

    @property
    def lineage(self) -> str:
        """The lineage of the finished run: what the dataset is made from. Raises RunError while it is not finished."""
        end = self._manifest.end
        if end is None:
            raise RunError(f"{self._run.storage.location} is not finished; run the build again to go on")
        return end

    @property
    def seals(self) -> dict[str, str]:
        """The checksum of every shard that is there, by its name."""
        places = ((step, shard, self._manifest.get(step, shard)) for step, shard in self._manifest.places())
        return {
            self._run.shard_name(step, shard): committed.seal
            for step, shard, committed in places
            if committed is not None
        }

    @property
    def kept(self) -> int:
        """How many rows are still in: no row is rejected twice."""
        return self._run.recipe.rows - self._rejected_rows

    def _scan(self) -> None:
        self._manifest = scan(self._run, self._bound, self._report)
        self._count_current(self._run.steps)

    def _count_current(self, steps: Sequence[RunStep]) -> None:
        """Count the shards of these steps that are there and not counted yet.

        One that was made from a damaged shard is current again once that is made anew with the same content. One behind
        a step that looks at more rows now, which is made again, may be or not: it is counted when that is known.
        """
        behind: set[int] = set()  # shards of which an earlier step of these is to be made again
        for run_step in steps:
            for shard in range(self._run.shards):
                if not self._manifest.is_current(run_step, shard):
                    behind.add(shard)
                if shard in behind or (run_step.number, shard) in self._counted:
                    continue
                rejected = self._rejected(run_step, shard)
                self._report(Found(run_step.name, len(self._run.shard_range(shard)), rejected))
                self._count(run_step.number, shard, rejected)

    def _count(self, number: int, shard: int, rejected: int) -> None:
        self._counted.add((number, shard))
        self._rejected_rows += rejected

    def _rejected(self, run_step: RunStep, shard: int) -> int:
        if not run_step.step.rejects:
            return 0
        return rejections(self._run.read(run_step, shard, [REJECTED.name], check=False))

    def _missing(self, run_step: RunStep) -> list[int]:
        """The shards of a step that are not there, or not made from what is there now."""
        return [shard for shard in self._shards if not self._manifest.is_current(run_step, shard)]

    async def _phase(self, phase: Phase) -> None:
        if self._gate_checker is not None:
            for check in gate_checks(self._run, self._run.recipe.gate, phase):
                if check.part is not None:
                    await self._steps(check.part, most=check.shards)
                self._report(Working(f"the gate {check.name}"))
                await asyncio.to_thread(self._gate_checker, check)
        await self._steps(phase)

    async def _steps(self, phase: Phase, *, most: int | None = None) -> None:
        """Make what is missing of these steps, of the first `most` shards or of all."""
        missing = sorted({shard for run_step in phase.steps for shard in self._missing(run_step)})
        missing = [shard for shard in missing if most is None or shard < most]
        if missing:
            await self._make(phase, missing)
        await asyncio.to_thread(self._count_current, phase.steps)

    async def _make(self, phase: Phase, missing: list[int]) -> None:
        """Make the shards that are missing from a phase."""
        discard_dataset(self._run)
        if self._sources is None:
            self._sources = await asyncio.to_thread(self._find_sources)
        if phase.is_global:
            self._report(Working(phase.name))
            await asyncio.to_thread(self._run_global, phase.steps[0])
            return
        try:
            missing = await self._take_what_stands(phase, missing)
            if not missing:
                return  # and nothing is loaded
            # What a shard of a sequential step is made from stands only when the one before it does.
            for shards in [[shard] for shard in missing] if phase.is_sequential else [missing]:
                tasks = [self._task(phase, shard) for shard in shards]
                await self._executor.run(self._run, self._bound, phase, tasks, self._on_event)
                if self._is_draining:
                    raise StoppedError("the build was stopped")
        finally:
            self._report(PhaseEnded(tuple(run_step.name for run_step in phase.steps)))

    async def _take_what_stands(self, phase: Phase, missing: list[int]) -> list[int]:
        """Make the shards for which nothing has to be loaded, as all their rows stand; those that are left."""
        if not self.sources or phase.is_sequential:
            return missing
        tasks = [task for task in (self._task(phase, shard) for shard in missing) if task.sources]
        self._report(Working(phase.name))
        worker = Worker(
            self._run, self._bound, phase, None, self._on_event, lambda: self._is_over, loads_nothing=True
        )
        for task in tasks:
            if self._is_draining:
                raise StoppedError("the build was stopped")
            await worker.take(task)
        return [
            shard
            for shard in missing
            if not all(self._manifest.is_current(run_step, shard) for run_step in phase.steps)
        ]

    def _task(self, phase: Phase, shard: int) -> ShardTask:
        made_from = self._manifest.source(phase.steps[0], shard)
        if made_from is None:
            raise RunError(f"shard {shard} lacks the steps before {phase.name}; please report this")
        shards = {run_step.number: self._manifest.get(run_step, shard) for run_step in phase.steps}
        committed = {number: found for number, found in shards.items() if found is not None}
        earlier = self._manifest.earlier(phase.steps[0], shard) or ""
        sources = {
            run_step.number: tuple(source.location for source in self.sources if source.has(run_step, shard))
            for run_step in phase.steps
            if stands_by_row(run_step)
        }
        sources = {number: locations for number, locations in sources.items() if locations}
        return ShardTask(shard, made_from, committed, earlier=earlier, sources=sources)

    def _on_event(self, event: Event) -> None:
        """Note what a worker has committed, and pass everything on."""
        if isinstance(event, Committed):
            self._manifest.add(self._run.steps[event.number - 1], event.shard, event.committed)
            self._count(event.number, event.shard, event.rejected)
        self._report(event)

    # Steps that see every row

    def _run_global(self, run_step: RunStep) -> None:
        """Read the whole column, work it out, write it shard by shard."""
        work = self._bound.work[run_step.number - 1]
        assert isinstance(work, GlobalWork)
        self._report(Began(run_step.name, 0))
        shards = range(self._run.shards)
        # In a list, so that the step alone holds the rows once it has begun, and can let go of what it has read.
        given = [pa.concat_tables(self._given(run_step, shard) for shard in shards)]
        ids = given[0].select(["id"])

        def on_progress(what: str, done: int, total: int) -> None:
            if self._is_over:
                raise StoppedError("the build was stopped")
            self._report(Advanced(run_step.name, what, done, total))

        result = work.run_all(given.pop(), on_progress)
        self._note(run_step, result)
        check_result(run_step, ids, result)
        for shard in self._missing(run_step):
            positions = self._run.shard_range(shard)
            part = result.slice(positions.start, len(positions))
            committed = self._commit(run_step, shard, part)
            self._on_event(
                Committed(run_step.name, run_step.number, shard, part.num_rows, rejections(part), committed)
            )

    def _given(self, run_step: RunStep, shard: int) -> pa.Table:
        if run_step.number == 1:
            return first_rows(self._run, self._bound, shard)
        return self._run.rows(shard, run_step.step.reads, before=run_step)

    def _note(self, run_step: RunStep, result: pa.Table) -> None:
        """Tell what the step has to say of its result."""
        if NOTE in (result.schema.metadata or {}):
            facts = json.loads(result.schema.metadata[NOTE]).items()
            listed = [f"{key.replace('_', ' ')} {value}" for key, value in facts if value is not None]
            self._report(Noted(f"{run_step.name}: {', '.join(listed)}"))

    def _commit(self, run_step: RunStep, shard: int, part: pa.Table) -> Shard:
        if self._is_over:
            raise StoppedError("the build was stopped")
        made_from = self._manifest.source(run_step, shard)
        if made_from is None:
            raise RunError(f"rows are missing before {run_step.name}; please report this")
        stamp = stamp_for(self._run, self._bound, run_step, shard, made_from)
        stale = self._manifest.get(run_step, shard)
        return commit(self._run, self._bound, run_step, part, stamp, stale=stale)
