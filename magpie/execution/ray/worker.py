"""The inside of one Ray actor: one engine, and the same worker body as in every other executor.

The driver's process hands over shard numbers and takes events; rows go through storage. Everything is asked for by the
driver: an actor that hears nothing does nothing more.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from magpie import machine
from magpie.errors import RunError
from magpie.execution.base import Completed, Event, Report, ShardTask, merge_completions
from magpie.execution.runner import OpenEngine, OpenScorer, PhaseRunner
from magpie.execution.scheduler import ShardDemand, TaskQueue, shard_demand
from magpie.plan import BoundPlan, BuildTools, Phase, bind, make_plan
from magpie.recipe import Recipe
from magpie.runs.run import Run
from magpie.secrets import start_log
from magpie.steps import Method
from magpie.storage import Storage

_PATIENCE = 0.5
"""Seconds that an exchange waits for something to report before it answers that there is nothing."""

_EVERY = 0.1
"""Seconds between two answers, so that a fast engine's completions travel in batches."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What has happened in an actor since the last exchange.

    `demand` is how many more shards it asks for.
    """

    events: list[Event]
    demand: ShardDemand
    is_over: bool


class RayWorker:
    """Takes the shards of a phase that the driver hands over, with an engine of its own.

    `beside` workers share its machine, itself included; `threads` is what a person has set OMP_NUM_THREADS to,
    and `log_level` that of the driver's log.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        recipe: Recipe,
        method: Method,
        fingerprints: tuple[str, ...],
        engines: OpenEngine,
        scorers: OpenScorer,
        beside: int,
        threads: str | None,
        log_level: int,
    ) -> None:
        start_log(log_level)
        machine.share(beside)
        # Ray gives an actor one thread for each core that it reserves, which is one: a CPU engine wants its whole part.
        # Libraries read it when they are loaded, which is later.
        os.environ["OMP_NUM_THREADS"] = threads or str(machine.processors())
        self._given = storage, recipe, method, fingerprints
        self._made: tuple[Run, BoundPlan] | None = None
        self._runner = PhaseRunner(engines, scorers, delivered=self._delivered)
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._exchanges = 0
        self._news, self._exchanged = asyncio.Event(), asyncio.Event()
        self._tasks, self._shard_rows = TaskQueue(), 1
        self._working: asyncio.Task[None] | None = None
        self._is_loaded = False

    async def node(self) -> str:
        """Where the actor runs, for messages."""
        return _node()

    async def heartbeat(self) -> None:
        """Say that the process lives."""

    async def begin(self, phase: Phase, first: int, slots: int | None) -> None:
        """Begin to load what the phase needs, with so many slots for the engine at most, then to take its shards."""
        await self.stop()
        self._events, self._is_loaded = [], False
        loop = asyncio.get_running_loop()

        def report(event: Event) -> None:
            with self._lock:
                self._events.append(event)
            # Events come from any thread; a loop that has ended is told nothing.
            if not isinstance(event, Completed) and not loop.is_closed():
                loop.call_soon_threadsafe(self._news.set)

        self._tasks = TaskQueue(ended=False)
        self._working = asyncio.create_task(self._work(phase, first, slots, report))
        self._working.add_done_callback(lambda _: self._news.set())

    async def exchange(self, tasks: Sequence[ShardTask], *, last: bool = False) -> Answer:
        """Take more tasks, and say what has happened. `last` says that no more come.

        Raises what loading raised, or a shard.
        """
        assert self._working is not None
        self._exchanges += 1
        self._exchanged.set()
        self._tasks.put(tasks)
        if last:
            self._tasks.end()
        await asyncio.sleep(_EVERY)
        if not self._demand():
            self._news.clear()
            if not (self._events or self._working.done()):
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), _PATIENCE)
        if self._working.done():
            self._working.result()
        return Answer(self._take_events(), self._demand(), self._working.done())

    async def stop(self) -> None:
        """Drop the shards in flight; what is loaded stays."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait({self._working})
            self._working = None

    async def close(self) -> None:
        """Drop everything, and let the engine go."""
        await self.stop()
        await self._runner.close()

    async def _work(self, phase: Phase, first: int, slots: int | None, report: Report) -> None:
        tasks = self._tasks
        run, bound = await asyncio.to_thread(self._bind)
        self._shard_rows = run.recipe.shard_rows
        await self._runner.load(bound, phase, first, report, slots=slots)
        self._is_loaded = True
        self._news.set()  # it wants shards now
        await self._runner.work(run, bound, phase, tasks, report)

    def _bind(self) -> tuple[Run, BoundPlan]:
        """The run and its plan, made here from the recipe: models and templates are this node's own."""
        if self._made is not None:
            return self._made
        storage, recipe, method, fingerprints = self._given
        plan = make_plan(recipe, method)
        bound = bind(plan, BuildTools())
        if bound.fingerprints != fingerprints:
            # Rows of two kinds in one dataset would be worse than no build.
            raise RunError(
                f"{_node()} sees other files than the driver: models, templates or magpie itself differ there; "
                "give every node the same"
            )
        self._made = Run(storage, plan.recipe, plan.steps), bound
        return self._made

    def _demand(self) -> ShardDemand:
        if not (self._is_loaded and self._tasks.may_grow):
            return ShardDemand()
        queue, tasks = self._runner.queue, self._tasks
        return shard_demand(queue, len(tasks), tasks.running, self._shard_rows)

    def _take_events(self) -> list[Event]:
        with self._lock:
            events, self._events = self._events, []
        return merge_completions(events)

    async def _delivered(self) -> None:
        """Wait until the driver has what was reported: it has when it asks for more."""
        # The exchange that is under way may have taken its events before the report: so two have to begin.
        aim = self._exchanges + 2
        while self._exchanges < aim:
            self._exchanged.clear()
            self._news.set()
            await self._exchanged.wait()


def _node() -> str:
    import socket

    return f"{socket.gethostname()} (pid {os.getpid()})"
