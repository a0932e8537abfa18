"""Keeping an engine full: how much it has been asked for, and when to begin with another shard.

Inside a phase every shard is a task of its own, at its own step. A new one begins whenever fewer completions wait than
twice the engine's slots, so a shard's longest rows never hold the engine up; only the end of a phase drains it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from magpie.engines.base import Completion, Engine, ModelInfo, Sampling, Score, Scorer
from magpie.execution.base import Completed, Report, ShardTask

# Shards at once in a phase without an engine: one reads and writes while another computes.
_SHARDS_WITHOUT_ENGINE = 2


@dataclass(slots=True)
class EngineQueue:
    """An engine or scorer, and how much work it has.

    `in_flight` completions are asked for and not yet given. `expected` counts, for each shard that has begun and not
    asked yet, the requests it is about to make. `has_room` is set when there are fewer of both than `wakes_below`.
    """

    engine: Engine | Scorer
    in_flight: int = 0
    expected: dict[int, int] = field(default_factory=dict)
    has_room: asyncio.Event = field(default_factory=asyncio.Event)
    wakes_below: int = 0

    @property
    def slots(self) -> int:
        """How many completions the engine works on at once."""
        return self.engine.model.slots

    @property
    def requests(self) -> int:
        """Completions in flight, and those about to be asked for."""
        return self.in_flight + sum(self.expected.values())

    def begins_below(self, running: int, shard_rows: int) -> int:
        """With fewer requests than so many, one more shard may begin beside those that run."""
        # So many shards hold twice the slots, were each to have all of its rows in flight; four times as many, since
        # most of a shard's rows are done while its longest still run, and a few more for phases with few slots.
        enough = 4 * -(-2 * self.slots // shard_rows) + 4
        if running < enough:
            return 2 * self.slots  # with that much waiting, no slot is ever empty
        # Where the last rows of many shards leave slots empty, more may begin, up to a bound on memory.
        return self.slots if running < 4 * enough else 0

    def may_begin(self, running: int, shard_rows: int) -> bool:
        """Whether one more shard may begin beside those that run."""
        return self.requests < self.begins_below(running, shard_rows)

    def begin(self, shard: int, rows: int) -> None:
        """A shard begins, and is about to ask for as many completions as it has rows."""
        self.expected[shard] = rows

    def asked(self, shard: int) -> None:
        """A shard asks for a completion. What it was expected to ask for, it asks for from now on."""
        self.expected.pop(shard, None)
        self.in_flight += 1

    def answered(self) -> None:
        """A completion is given, or has failed."""
        self.in_flight -= 1
        if self.requests < self.wakes_below:
            self.has_room.set()

    def leave(self, shard: int) -> None:
        """A shard is through with the phase."""
        self.expected.pop(shard, None)
        self.has_room.set()


class QueuedEngine:
    """The engine or scorer as one shard sees it: every answer is reported, and the queue kept."""

    def __init__(self, queue: EngineQueue, shard: int, report: Report) -> None:
        self._queue, self._shard, self._report = queue, shard, report
        self._asking = set[asyncio.Task[Any]]()
        self.step = ""

    @property
    def model(self) -> ModelInfo:
        """What is loaded."""
        return self._queue.engine.model

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """The engine's completion."""
        step, queue = self.step, self._queue
        asking = self._begin()
        try:
            completion = await cast("Engine", queue.engine).complete(prompt, sampling)
        finally:
            self._asking.discard(asking)
            queue.answered()
        tokens, cached, replaced = completion.token_count, completion.cached_tokens, completion.replaced
        self._report(Completed(step, tokens, len(prompt), cached, replaced, self._shard))
        return completion

    async def score(self, conversation: Sequence[int]) -> Score:
        """The scorer's reward."""
        step, queue = self.step, self._queue
        asking = self._begin()
        try:
            score = await cast("Scorer", queue.engine).score(conversation)
        finally:
            self._asking.discard(asking)
            queue.answered()
        self._report(Completed(step, 0, shard=self._shard))
        return score

    def _begin(self) -> asyncio.Task[Any]:
        """Count a request, and note who makes it."""
        self._queue.asked(self._shard)
        asking = asyncio.current_task()
        assert asking is not None
        self._asking.add(asking)
        return asking

    async def drop(self) -> None:
        """Give up what the shard still asks for. An engine that is closed under a request may leave it behind."""
        left = self._asking - {asyncio.current_task()}
        for asking in left:
            asking.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def close(self) -> None:
        """The executor closes the engine, not the shard."""


class TaskQueue:
    """Shard tasks that wait to be begun. Unless it is `ended`, more may be put in while it is worked through."""

    def __init__(self, tasks: Iterable[ShardTask] = (), *, ended: bool = True) -> None:
        self._tasks = deque(tasks)
        self._ended = ended
        self.running = 0  # tasks that have begun and are not through
        self.changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def may_grow(self) -> bool:
        """Whether more tasks may come."""
        return not self._ended

    def put(self, tasks: Iterable[ShardTask]) -> None:
        """Add tasks."""
        self._tasks.extend(tasks)
        self.changed.set()

    def end(self) -> None:
        """Say that no more tasks come."""
        self._ended = True
        self.changed.set()

    def drop_waiting(self) -> None:
        """Forget the tasks that have not begun; no more come."""
        self._tasks.clear()
        self.end()

    def take(self) -> ShardTask:
        """The task that has waited longest."""
        return self._tasks.popleft()


async def stream(
    tasks: TaskQueue,
    take: Callable[[ShardTask], Awaitable[None]],
    queue: EngineQueue | None,
    *,
    rows_of: Callable[[int], int],
    shard_rows: int,
) -> None:
    """Begin with shards as the engine has room for them, until all are through. The first error ends it."""
    running = set[asyncio.Task[Any]]()
    try:
        while tasks or tasks.may_grow or running:
            while tasks and has_room(queue, len(running), shard_rows):
                task = tasks.take()
                if queue is not None:
                    queue.begin(task.shard, rows_of(task.shard))
                running.add(asyncio.ensure_future(take(task)))
            tasks.running = len(running)
            signals = set[asyncio.Task[Any]]()
            if tasks and queue is not None:
                # An answer that makes no room for a shard wakes nobody: there are thousands a second.
                queue.wakes_below = queue.begins_below(len(running), shard_rows)
                queue.has_room.clear()
                signals.add(asyncio.create_task(queue.has_room.wait()))
            if tasks.may_grow:
                tasks.changed.clear()
                signals.add(asyncio.create_task(tasks.changed.wait()))
            try:
                done, _ = await asyncio.wait(running | signals, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for signal in signals:
                    signal.cancel()
            for finished in done - signals:
                running.discard(finished)
                finished.result()  # raises what the shard raised
            tasks.running = len(running)
    finally:
        for unfinished in running:
            unfinished.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def has_room(queue: EngineQueue | None, running: int, shard_rows: int) -> bool:
    """Whether another shard may begin beside those that run."""
    return running < _SHARDS_WITHOUT_ENGINE if queue is None else queue.may_begin(running, shard_rows)


@dataclass(frozen=True, slots=True)
class ShardDemand:
    """How many more shards a worker asks for: those that it can begin with `now`, and those to have in `reserve`."""

    now: int = 0
    reserve: int = 0

    def __bool__(self) -> bool:
        return self.now + self.reserve > 0


def shard_demand(queue: EngineQueue | None, waiting: int, running: int, shard_rows: int) -> ShardDemand:
    """How many more tasks a worker should be handed, so that it can begin at once whenever there is room."""
    if queue is None:
        can_begin = max(0, _SHARDS_WITHOUT_ENGINE - running)
    elif queue.may_begin(running, shard_rows):
        can_begin = -(-(2 * queue.slots - queue.requests) // shard_rows)
    else:
        can_begin = 0
    # A fast engine is through with a shard before the next exchange: one waits for it.
    return ShardDemand(max(0, can_begin - waiting), max(0, min(1, can_begin + 1 - waiting)))
