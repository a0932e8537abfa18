"""Workers in this process: one engine at a time, which stays loaded as long as the next phase wants it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from magpie.engines import open_engine, open_scorer, require_engine
from magpie.engines.base import Engine, Scorer
from magpie.errors import EngineError
from magpie.execution.base import Loaded, Loading, Report, ShardTask, Working
from magpie.execution.scheduler import EngineQueue, stream
from magpie.execution.worker import Worker, prepared_work
from magpie.plan import BoundPlan, Phase
from magpie.plan.tools import model_key
from magpie.recipe import Model
from magpie.runs.manifest import lineage_after
from magpie.runs.run import Run

OpenEngine = Callable[[Model], Awaitable[Engine]]
OpenScorer = Callable[[Model], Awaitable[Scorer]]


class LocalExecutor:
    """An Executor. `engines` and `scorers` open what a model needs: a caller may lend ones of its own."""

    def __init__(self, engines: OpenEngine = open_engine, scorers: OpenScorer = open_scorer) -> None:
        self._open_engine, self._open_scorer = engines, scorers
        self._engine: Engine | Scorer | None = None
        self._engine_key = ""

    async def run(
        self, run: Run, bound: BoundPlan, phase: Phase, tasks: Sequence[ShardTask], report: Report
    ) -> None:
        """Take every shard through the phase. Raises EngineError where this machine lacks an engine of any phase."""
        for later in bound.plan.phases:  # said before the first phase, not hours later
            if later.needs_engine and later.model is not None:
                require_engine(later.model)
        queue = None
        if phase.needs_engine and phase.model is not None:
            queue = EngineQueue(await self._engine_for(phase, phase.model, report))
        # What no task needs is not loaded: steps whose shards are all there, at the beginning of the phase.
        first = min((_first_missing(phase, task) for task in tasks), default=len(phase.steps))
        prepared = prepared_work(bound, phase.steps[first:])
        is_over = False
        worker = Worker(run, bound, phase, queue, report, lambda: is_over)
        try:
            for run_step, work in prepared:
                report(Loading(f"what {run_step.name} needs"))
                await work.prepare()
            report(Working(phase.name))
            await stream(
                tasks,
                worker.take,
                queue,
                rows_of=lambda shard: len(run.shard_range(shard)),
                shard_rows=run.recipe.shard_rows,
            )
        finally:
            is_over = True  # a thread that outlives a stopped build writes nothing any more
            for _, work in prepared:
                await work.close()

    async def close(self) -> None:
        """Let the engine go."""
        await self._close_engine()

    async def _engine_for(self, phase: Phase, model: Model, report: Report) -> Engine | Scorer:
        """The engine or scorer that holds the phase's model: the one that is loaded, when it is the same."""
        key = f"{'scorer' if phase.scores else 'engine'} {model_key(model)}"
        if self._engine is not None and self._engine_key == key:
            return self._engine
        await self._close_engine()
        report(Loading(model.model))
        self._engine = await (self._open_scorer(model) if phase.scores else self._open_engine(model))
        self._engine_key = key
        info = self._engine.model
        report(Loaded(info.name, info.revision, info.engine))
        return self._engine

    async def _close_engine(self) -> None:
        if self._engine is not None:
            engine, self._engine = self._engine, None
            with suppress(EngineError):  # it may be lost already
                await engine.close()


def _first_missing(phase: Phase, task: ShardTask) -> int:
    """The place in the phase of the first step whose shard is not there, or not made from what is there."""
    lineage = task.made_from
    for place, run_step in enumerate(phase.steps):
        committed = task.committed.get(run_step.number)
        if committed is None or committed.stamp.made_from != lineage:
            return place
        lineage = lineage_after(lineage, committed)
    return len(phase.steps)
