"""One engine at a time and what steps load besides, and shards taken through phases with them.

It is the inside of every executor: the local one has one in this process, Ray has one in each of its workers. A model
stays loaded as long as the next phase wants it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from magpie.engines import open_engine, open_scorer
from magpie.engines.base import Engine, Scorer
from magpie.errors import EngineError
from magpie.execution.base import Loaded, Loading, Report, ShardTask, Working
from magpie.execution.scheduler import EngineQueue, TaskQueue, stream
from magpie.execution.worker import Worker, delivered_at_once, prepared_work
from magpie.machine import seldom_collected
from magpie.plan import BoundPlan, Phase
from magpie.plan.tools import model_key
from magpie.recipe import Model
from magpie.runs.manifest import lineage_after
from magpie.runs.run import Run
from magpie.steps.base import PreparedWork

_SLOTS = 512
"""Slots of an engine of which nothing says how many it was to have."""

OpenEngine = Callable[[Model], Awaitable[Engine]]
OpenScorer = Callable[[Model], Awaitable[Scorer]]


class PhaseRunner:
    """Loads what a phase needs, and works through its shards. `engines` and `scorers` open what a model needs.

    `keeps_prepared` keeps what steps have loaded until it is closed; by default until the end of a phase.
    """

    def __init__(
        self,
        engines: OpenEngine = open_engine,
        scorers: OpenScorer = open_scorer,
        *,
        keeps_prepared: bool = False,
        delivered: Callable[[], Awaitable[None]] = delivered_at_once,
    ) -> None:
        self._delivered = delivered
        self._open_engine, self._open_scorer = engines, scorers
        self._keeps_prepared = keeps_prepared
        self._prepared: list[PreparedWork[Any]] = []
        self._engine: Engine | Scorer | None = None
        self.queue: EngineQueue | None = None  # of the phase that is loaded; None where it has no engine
        self._engine_key = ""

    async def load(
        self, bound: BoundPlan, phase: Phase, first: int, report: Report, *, slots: int | None = None
    ) -> None:
        """Load the model of the phase, and what its steps need, from the one in place `first` on.

        What the steps before need is not loaded: all their shards are there. `slots` stands in for the recipe's, where
        an engine has run out of memory with those.
        """
        self.queue = None
        try:
            # Before the engine, whose cache takes a share of the memory that is left then.
            for run_step, work in prepared_work(bound, phase.steps[first:]):
                report(Loading(f"what {run_step.name} needs"))
                self._prepared.append(work)
                await self._prepare(work)
            if phase.needs_engine and phase.model is not None:
                model = phase.model if slots is None else phase.model.model_copy(update={"slots": slots})
                self.queue = EngineQueue(await self._engine_for(phase, model, report))
        except BaseException:
            await self._close_prepared()
            raise

    async def work(self, run: Run, bound: BoundPlan, phase: Phase, tasks: TaskQueue, report: Report) -> None:
        """Take shards through a phase that is loaded, until no more tasks come."""
        is_over = False
        worker = Worker(run, bound, phase, self.queue, report, lambda: is_over, self._delivered)
        try:
            report(Working(phase.name))
            with seldom_collected():
                await stream(
                    tasks,
                    worker.take,
                    self.queue,
                    rows_of=lambda shard: len(run.shard_range(shard)),
                    shard_rows=run.recipe.shard_rows,
                )
        finally:
            is_over = True  # a thread that outlives a stopped build writes nothing any more
            if not self._keeps_prepared:
                await self._close_prepared()

    async def close(self) -> None:
        """Let the engine go, and what steps have loaded."""
        await self._close_engine()
        await self._close_prepared()

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
        report(Loaded(info.name, info.revision, info.engine, info.slots, info.settings))
        return self._engine

    async def _prepare(self, work: PreparedWork[Any]) -> None:
        try:
            await work.prepare()
        except Exception as error:
            if self._engine is None or not is_short_of_memory(error):
                raise
            await self._close_engine()  # it stays for a later phase, and holds most of the GPU
            await work.prepare()

    async def _close_prepared(self) -> None:
        while self._prepared:
            await self._prepared.pop().close()

    async def _close_engine(self) -> None:
        if self._engine is not None:
            engine, self._engine = self._engine, None
            with suppress(EngineError):  # it may be lost already
                await engine.close()


def is_short_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory did not suffice, as far as the error says: fewer slots may help."""
    return "out of memory" in str(error).lower()


def half_the_slots(error: BaseException, *known: int | None) -> int:
    """Half of the fewest slots that an engine has failed with, at least 1.

    Those are what the error says; else the fewest of the `known`, where there are any.
    """
    tried = getattr(error, "slots", None)
    return max(1, min([tried] if tried else [slots for slots in known if slots], default=_SLOTS) // 2)


def first_missing(phase: Phase, tasks: Sequence[ShardTask]) -> int:
    """The place in the phase of the first step that has to make a shard of these; its length where none has."""
    return min((_first_missing(phase, task) for task in tasks), default=len(phase.steps))


def _first_missing(phase: Phase, task: ShardTask) -> int:
    lineage = task.made_from
    for place, run_step in enumerate(phase.steps):
        committed = task.committed.get(run_step.number)
        if committed is None or committed.stamp.made_from != lineage:
            return place
        lineage = lineage_after(lineage, committed)
    return len(phase.steps)
