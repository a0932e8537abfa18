"""One worker on the cluster: its room is reserved, its actor started, given shards, watched, and ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from magpie import machine
from magpie.execution.base import Committed, Completed, Loaded, Report, ShardDone, ShardTask, Working
from magpie.execution.ray import cluster
from magpie.execution.ray.dispatcher import Dispatcher
from magpie.execution.ray.worker import Answer, RayWorker
from magpie.execution.runner import OpenEngine, OpenScorer, half_the_slots
from magpie.plan import BoundPlan, Phase
from magpie.plan.tools import model_key
from magpie.runs.run import Run

T = TypeVar("T")

HEARTBEAT_EVERY, SILENCE = 10.0, 20.0
"""A worker whose answer takes longer is asked every so many seconds whether it lives, and has so long to say so."""

_LONGEST_ANSWER = 300.0
"""Seconds after which a worker that lives and gives no answer is taken for stuck. Loading is not an answer."""

_LONGEST_START = 600.0
"""Seconds that the process of a worker has to start: its imports may come over a slow network."""


@dataclass(frozen=True, slots=True)
class PhaseWork:
    """What the workers of one phase have in common. `first` is the first step in it that has shards to make."""

    run: Run
    bound: BoundPlan
    phase: Phase
    first: int
    report: Report
    dispatcher: Dispatcher
    engines: OpenEngine
    scorers: OpenScorer


class Replica:
    """One worker, which gets a new actor where the last one has died.

    `failures` counts how often in a row it died at once. `waits_since` is when it asked the cluster for room, on the
    monotonic clock; None once it has it. `is_loaded` once it has all that the phase needs, as long as its actor lives.
    """

    def __init__(self, number: int, resources: cluster.Resources) -> None:
        self.number, self.resources = number, resources
        self.node = ""
        self.failures = 0
        self.waits_since: float | None = time.monotonic()
        self.is_loaded = False
        self.actor: Any = None
        self._group: Any = None
        self._node_id = ""
        self._slots = 0  # of the engine that was loaded last
        self._slot_limits: dict[str, int] = {}  # by model, once it has run out of memory with more

    async def start(self, work: PhaseWork, *, beside: int) -> None:
        """Have an actor, which begins to load what the phase needs. `beside` workers share its node, with it."""
        if self.actor is None:
            await self._wait_for_room()
            self._node_id = cluster.node_of(self._group)
            self.actor = cluster.start(
                RayWorker,
                self._group,
                self.resources,
                storage=work.run.storage,
                recipe=work.bound.plan.recipe,
                method=work.bound.plan.method,
                fingerprints=work.bound.fingerprints,
                engines=work.engines,
                scorers=work.scorers,
                beside=beside,
                threads=machine.threads_asked(),
                log_level=logging.getLogger().getEffectiveLevel(),
            )
            with _limited(_LONGEST_START, "it has not started within"):
                self.node = await asyncio.wait_for(self.actor.node.remote(), _LONGEST_START)
        self._slots, self.is_loaded = 0, False
        limit = self._slot_limits.get(_model(work.phase))
        await self._answer(self.actor.begin.remote(work.phase, work.first, limit))

    async def feed(self, work: PhaseWork) -> None:
        """Give shards to the worker and take its events, until the phase is over."""
        dispatcher, tasks = work.dispatcher, list[ShardTask]()
        while True:
            last = dispatcher.is_over
            answer: Answer = await self._answer(self.actor.exchange.remote(tasks, last=last))
            for event in answer.events:
                dispatcher.handle(self.number, event)
                if isinstance(event, Loaded):
                    self._slots = event.slots
                if isinstance(event, Working):
                    self.is_loaded = True
                if isinstance(event, Completed | Committed | ShardDone):
                    self.failures = 0  # it has done something
            if last and answer.is_over:
                return
            tasks = dispatcher.assign(self.number, answer.demand)

    def halve_slots(self, phase: Phase, error: BaseException) -> int:
        """The next engine of the phase's model gets half the slots: this one has run out of memory. How many."""
        key = _model(phase)
        asked = None if phase.model is None else phase.model.slots
        self._slot_limits[key] = half_the_slots(error, self._slots, self._slot_limits.get(key), asked)
        return self._slot_limits[key]

    def has_lost_its_node(self) -> bool:
        """Whether the node is gone on which the actor was, or is: then nothing that it did has ended it."""
        return bool(self._node_id) and not cluster.has_node(self._node_id)

    def take_over(self, other: Replica) -> None:
        """Have the actor and the room of another worker, which ends with that."""
        self.actor, self._group = other.actor, other._group
        self.node, self._node_id = other.node, other._node_id
        other.actor = other._group = None

    async def release(self) -> None:
        """End the actor, whatever it is at, and give its room back."""
        self.is_loaded = False
        actor, group, self.actor, self._group = self.actor, self._group, None, None
        cluster.release(actor, group)

    async def close(self) -> None:
        """Let the actor let go of what it has loaded, then end it."""
        if self.actor is not None:
            with suppress(Exception):  # it is killed anyway
                await asyncio.wait_for(self.actor.close.remote(), 10)
        await self.release()

    async def _wait_for_room(self) -> None:
        """Wait until the cluster has reserved what the worker takes; a node may have gone, and another may join."""
        self.waits_since = time.monotonic()
        self._group = cluster.reserve(self.resources)
        ready = asyncio.ensure_future(self._group.ready())
        ready.add_done_callback(_pass_over)
        await ready
        self.waits_since = None

    async def _answer(self, call: Awaitable[T]) -> T:
        """The answer to a call. Raises TimeoutError where the actor's process is silent, or stuck."""
        answer: asyncio.Future[T] = asyncio.ensure_future(call)
        answer.add_done_callback(_pass_over)  # where it is waited for no longer
        ends = asyncio.get_running_loop().time() + _LONGEST_ANSWER
        while not answer.done():
            await asyncio.wait({answer}, timeout=HEARTBEAT_EVERY)
            if not answer.done():
                if asyncio.get_running_loop().time() > ends:
                    raise TimeoutError(f"it has been at one thing for {_LONGEST_ANSWER:.0f} s")
                # In a thread of its own there: whatever the worker is at, only a process that stands is silent.
                beat = self.actor.heartbeat.options(concurrency_group=cluster.HEARTBEAT).remote()
                with _limited(SILENCE + HEARTBEAT_EVERY, "it does not answer for"):
                    await asyncio.wait_for(beat, SILENCE)
        return answer.result()


@contextmanager
def _limited(seconds: float, what: str) -> Iterator[None]:
    """Say what took too long, where a wait inside has run out: that error has no text."""
    try:
        yield
    except TimeoutError:
        raise TimeoutError(f"{what} {seconds:.0f} s") from None


def _pass_over(answer: asyncio.Future[Any]) -> None:
    """Have an error that nobody waits for any more passed over: asyncio would complain of it."""
    if not answer.cancelled():
        answer.exception()


def _model(phase: Phase) -> str:
    return "" if phase.model is None else model_key(phase.model)
