"""GPUs in virtual time: engines under the worker's scheduler, given shards by the dispatcher of the Ray executor.

Only what stands around those two is written here: an engine that takes its time, and a worker's exchanges.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.virtual_time import SimulatedEngine, VirtualLoop
from magpie.engines.base import Sampling
from magpie.execution.base import Event, ShardDone, ShardTask
from magpie.execution.ray.dispatcher import Dispatcher
from magpie.execution.scheduler import EngineQueue, QueuedEngine, TaskQueue, shard_demand, stream
from magpie.plan import BuildTools, bind, make_plan
from magpie.recipe.loading import parse_recipe
from magpie.runs.run import Run
from magpie.storage import MemoryStorage

Tokens = tuple[np.ndarray[Any, Any], ...]
"""How many tokens each row's instruction and response take."""

_EXCHANGE_EVERY = 0.5
_RESTART = 60.0
_SAMPLE_EVERY = 2.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card with a model on it: how many sequences run at once, and the seconds of a step with so many of them."""

    slots: int
    step_seconds: Callable[[int], float]


@dataclass(slots=True)
class Outcome:
    """One simulated build. `slots_used` is the share of slots with work in them until the last shard was assigned.

    `running` is how many sequences ran on the first GPU, every two seconds.
    """

    gpus: int
    rows: int
    seconds: float
    slots_used: float
    killed: int
    running: list[int]

    @property
    def rows_per_gpu_hour(self) -> float:
        """Pairs of instruction and response."""
        return self.rows / self.gpus / self.seconds * 3600


def simulate(
    gpu: Gpu,
    gpus: int,
    tokens: Tokens,
    *,
    shard_rows: int,
    kill_every: float | None = None,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Outcome:
    """Build these rows on so many GPUs; one engine is killed every `kill_every` seconds.

    `on_rows` is told how many rows more are done.
    """
    loop = VirtualLoop()
    try:
        outcome = loop.run_until_complete(_Fleet(gpu, gpus, tokens, shard_rows, on_rows).build(kill_every))
        loop.run_until_complete(asyncio.sleep(0))  # what was cancelled at the end, ends
        return outcome
    finally:
        loop.close()


@dataclass(slots=True)
class _Fleet:
    """All workers of a build, and what is known of them all."""

    gpu: Gpu
    gpus: int
    tokens: Tokens
    shard_rows: int
    on_rows: Callable[[int], None]
    engines: dict[int, SimulatedEngine] = field(default_factory=dict)
    workers: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    busy_before: float = 0.0  # slot seconds of engines that were killed
    busy_at_tail: float = 0.0
    tail_at: float | None = None
    killed: int = 0
    running: list[int] = field(default_factory=list)

    async def build(self, kill_every: float | None) -> Outcome:
        rows, loop, is_over = len(self.tokens[0]), asyncio.get_running_loop(), asyncio.Event()
        dispatcher = self._dispatcher(rows, is_over)
        for number in range(self.gpus):
            self.workers[number] = asyncio.create_task(self._work(dispatcher, number))
        over, beside = asyncio.create_task(is_over.wait()), [asyncio.create_task(self._sample())]
        if kill_every is not None:
            beside.append(asyncio.create_task(self._kill(dispatcher, kill_every)))
        try:
            while not over.done():
                done, _ = await asyncio.wait(
                    {over, *beside, *self.workers.values()}, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    if not task.cancelled():
                        task.result()  # raises what a worker raised, or a shard that lost too many
            seconds = loop.time()  # an engine that is still being loaded holds nothing up
        finally:
            for task in (over, *beside, *self.workers.values()):
                task.cancel()
            await asyncio.gather(over, *beside, *self.workers.values(), return_exceptions=True)
        at = self.tail_at or seconds
        used = self.busy_at_tail / (at * self.gpus * self.gpu.slots)
        return Outcome(self.gpus, rows, seconds, used, self.killed, self.running)

    def _dispatcher(self, rows: int, is_over: asyncio.Event) -> Dispatcher:
        recipe = parse_recipe(
            {
                "name": "simulated",
                "rows": rows,
                "shard_rows": self.shard_rows,
                "engine": "scripted",
                "models": {"generator": "scripted", "judge": "generator", "embedder": "scripted"},
                "language": None, "embed": None, "dedup": None, "tag": None, "filter": None,
            }
        )  # fmt: skip
        plan = make_plan(recipe)
        run, bound = Run(MemoryStorage(), plan.recipe, plan.steps), bind(plan, BuildTools())
        tasks = [ShardTask(shard, "", {}) for shard in range(run.shards)]

        def report(event: Event) -> None:
            if isinstance(event, ShardDone):
                self.on_rows(len(self._rows(event.shard)))
            if dispatcher.is_over:
                is_over.set()

        dispatcher = Dispatcher(run, bound, plan.phases[0], tasks, report)
        return dispatcher

    async def _work(self, dispatcher: Dispatcher, number: int) -> None:
        """One GPU: its engine, and shards assigned to it until none are left."""
        loop, shard_rows = asyncio.get_running_loop(), self.shard_rows
        engine = self.engines[number] = SimulatedEngine(self.gpu.slots, self.gpu.step_seconds, self._length)
        queue, tasks = EngineQueue(engine), TaskQueue(ended=False)

        async def take(task: ShardTask) -> None:
            asked = QueuedEngine(queue, task.shard, _ignore)
            rows = self._rows(task.shard)
            try:
                for step in range(len(self.tokens)):
                    sampling = Sampling(max_tokens=4096, seed=step)
                    await asyncio.gather(*(asked.complete((row,), sampling) for row in rows))
                dispatcher.handle(number, ShardDone(task.shard))
            finally:
                queue.leave(task.shard)

        working = asyncio.create_task(
            stream(tasks, take, queue, rows_of=lambda shard: len(self._rows(shard)), shard_rows=shard_rows)
        )
        try:
            while not dispatcher.is_over:
                tasks.put(
                    dispatcher.assign(number, shard_demand(queue, len(tasks), tasks.running, shard_rows))
                )
                if self.tail_at is None and not dispatcher.has_waiting:
                    self.tail_at = loop.time()
                    slot_seconds = sum(engine.busy_slot_seconds for engine in self.engines.values())
                    self.busy_at_tail = self.busy_before + slot_seconds
                await asyncio.sleep(_EXCHANGE_EVERY)
                if working.done():
                    working.result()
            tasks.end()
            await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await engine.close()

    async def _kill(self, dispatcher: Dispatcher, every: float) -> None:
        """Kill an engine every so often; it is back after the time that loading takes."""
        drawn = random.Random(0)
        while True:
            await asyncio.sleep(every)
            number = drawn.choice(sorted(self.workers))
            worker = self.workers.pop(number)
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
            self.killed += 1
            if number in self.engines:  # else it was being loaded
                self.busy_before += self.engines.pop(number).busy_slot_seconds
            await dispatcher.lost(number)
            self.workers[number] = asyncio.create_task(self._restart(dispatcher, number))

    async def _restart(self, dispatcher: Dispatcher, number: int) -> None:
        await asyncio.sleep(_RESTART)
        if not dispatcher.is_over:
            await self._work(dispatcher, number)

    async def _sample(self) -> None:
        while True:
            self.running.append(self.engines[0].running if 0 in self.engines else 0)
            await asyncio.sleep(_SAMPLE_EVERY)

    def _rows(self, shard: int) -> range:
        first = shard * self.shard_rows
        return range(first, min(first + self.shard_rows, len(self.tokens[0])))

    def _length(self, row: int, step: int) -> int:
        return int(self.tokens[step][row])


def _ignore(event: Event) -> None:
    """Nobody watches."""
