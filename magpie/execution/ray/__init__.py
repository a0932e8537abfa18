"""Workers on every GPU of a machine or of a cluster, by Ray Core: one actor an engine, each in a place of its own.

Nothing but shard numbers and events goes through Ray; rows go through the run's storage, which every node must reach.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from magpie.engines import open_engine, open_scorer
from magpie.errors import EngineError, MagpieError, RunError, ServerError
from magpie.execution.base import Loaded, Noted, Report, ShardTask
from magpie.execution.ray import cluster
from magpie.execution.ray.handout import Handout
from magpie.execution.ray.worker import Answer, RayWorker
from magpie.execution.runner import OpenEngine, OpenScorer, first_missing
from magpie.plan import BoundPlan, Phase
from magpie.runs.run import Run
from magpie.storage import MemoryStorage

_SILENCE = 300.0
"""Seconds without an answer after which a worker is taken for dead."""

_LONGEST_WAIT = 60.0
"""Seconds between two attempts to start a worker grow up to this."""

_ATTEMPTS = 6
"""Attempts to start a worker, or to get one shard through it, before its place is given up."""

_LOOK_FOR_NODES = 10.0

_SLOTS = 512
"""Slots of an engine that has never been loaded: what vLLM is given on a GPU by default."""


@dataclass(slots=True)
class _Place:
    """A worker's place: its actor, while there is one, and how often in a row it has died for nothing."""

    number: int
    needs: cluster.Needs
    actor: Any = None
    group: Any = None
    failures: int = 0
    slots: int = 0  # of the engine that was loaded last
    slot_limit: int | None = None  # once that has run out of memory
    node: str = ""


class RayExecutor:
    """An Executor on Ray.

    `address` is that of a cluster, "auto" for the one this machine belongs to, None to start one here. `replicas` is
    how many workers there are; by default as many as the cluster's GPUs hold, nodes that join later included.
    `engines` and `scorers` open what a model needs, in the workers: they are sent there.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        replicas: int | None = None,
        engines: OpenEngine = open_engine,
        scorers: OpenScorer = open_scorer,
    ) -> None:
        self._address, self._replicas = address, replicas
        self._engines, self._scorers = engines, scorers
        self._places: dict[int, _Place] = {}
        self._owns_cluster: bool | None = None

    async def run(
        self, run: Run, bound: BoundPlan, phase: Phase, tasks: Sequence[ShardTask], report: Report
    ) -> None:
        """Take every shard through the phase. Raises EngineError when no worker is left."""
        if isinstance(run.storage, MemoryStorage):
            raise RunError("a run in memory cannot be shared with Ray's workers; give it a folder")
        await self._connect()
        needs = cluster.needs_of(phase.model, loads=phase.model is not None)
        handout = Handout(run, bound, phase, tasks, report)
        work = _PhaseWork(run, bound, phase, first_missing(phase, tasks), report, handout)
        for place in [place for place in self._places.values() if place.needs != needs]:
            self._release(place)  # its GPUs are wanted for workers of another size
        crews: dict[int, asyncio.Task[None]] = {}
        try:
            while not handout.is_over:
                for number in range(min(self._wanted(needs), handout.left + len(crews))):
                    if number not in crews:
                        place = self._places.setdefault(number, _Place(number, needs))
                        crews[number] = asyncio.create_task(self._man(place, work))
                if not crews:
                    raise EngineError(_no_room(needs))
                at_work = [task for task in crews.values() if not task.done()]
                if at_work:
                    await asyncio.wait(at_work, timeout=_LOOK_FOR_NODES, return_when=asyncio.FIRST_COMPLETED)
                _raise_errors(crews.values())
        finally:
            for task in crews.values():
                task.cancel()
            await asyncio.gather(*crews.values(), return_exceptions=True)

    async def close(self) -> None:
        """End all workers, and the cluster if it was started here."""
        for place in list(self._places.values()):
            if place.actor is not None:
                with suppress(Exception):  # it is killed anyway
                    await asyncio.wait_for(place.actor.close.remote(), 10)
            self._release(place)
        if self._owns_cluster:
            self._owns_cluster = None
            await asyncio.to_thread(cluster.disconnect)

    async def _connect(self) -> None:
        if self._owns_cluster is None:
            # Without GPUs, workers share the cores: there are as many places as were asked for.
            self._owns_cluster = cluster.connect(self._address, cpus=self._replicas)

    def _wanted(self, needs: cluster.Needs) -> int:
        return cluster.capacity(needs) if self._replicas is None else self._replicas

    async def _man(self, place: _Place, work: _PhaseWork) -> None:
        """Keep a worker in its place until the phase is over. Raises what another worker could not mend either."""
        handout, report = work.handout, work.report
        while not handout.is_over:
            try:
                await self._start(place, work)
                await self._feed(place, work)
                return
            except asyncio.CancelledError:
                self._release(place)
                raise
            except Exception as error:
                self._release(place, keep=True)
                waiting = handout.lost(place.number)
                _raise_hopeless(error)
                if "out of memory" in str(error).lower():
                    place.slot_limit = max(1, (place.slots or _SLOTS) // 2)
                place.failures += 1
                if place.failures >= _ATTEMPTS:
                    raise EngineError(
                        f"{place.node or 'a worker'} died {_ATTEMPTS} times in a row: {_said(error)}"
                    ) from error
                pause = min(2.0**place.failures, _LONGEST_WAIT)
                again = f", {waiting} shards wait for another" if waiting else ""
                report(
                    Noted(
                        f"lost {place.node or 'a worker'}: {_said(error)}{again}; starting one in {pause:.0f} s"
                    )
                )
                await asyncio.sleep(pause)

    async def _start(self, place: _Place, work: _PhaseWork) -> None:
        """Have an actor in the place, with all loaded that the phase needs."""
        if place.actor is None:
            place.group = cluster.reserve(place.needs)
            await place.group.ready()
            run, plan = work.run, work.bound.plan
            place.actor = cluster.start(
                RayWorker,
                place.group,
                place.needs,
                storage=run.storage,
                recipe=plan.recipe,
                method=plan.method,
                fingerprints=work.bound.fingerprints,
                engines=self._engines,
                scorers=self._scorers,
            )
            place.node = await place.actor.node.remote()
        for event in await place.actor.begin.remote(work.phase, work.first, place.slot_limit):
            if isinstance(event, Loaded):
                place.slots = event.slots
            work.report(event)

    async def _feed(self, place: _Place, work: _PhaseWork) -> None:
        """Hand shards to a worker and take its events, until the phase is over."""
        handout, tasks = work.handout, list[ShardTask]()
        while True:
            last = handout.is_over
            exchange = place.actor.exchange.remote(tasks, last=last)
            answer: Answer = await asyncio.wait_for(exchange, _SILENCE)
            for event in answer.events:
                handout.handle(place.number, event)
            if answer.events:
                place.failures = 0
            if last and answer.is_over:
                return
            tasks = handout.take(place.number, answer.wants)

    def _release(self, place: _Place, *, keep: bool = False) -> None:
        """End a place's actor; the place itself too, unless it is kept for another."""
        cluster.release(place.actor, place.group)
        place.actor = place.group = None
        if not keep:
            self._places.pop(place.number, None)


@dataclass(frozen=True, slots=True)
class _PhaseWork:
    """What the workers of one phase have in common."""

    run: Run
    bound: BoundPlan
    phase: Phase
    first: int
    report: Report
    handout: Handout


def _raise_errors(crews: Iterable[asyncio.Task[None]]) -> None:
    """Raise what ended a worker's place: at once when it concerns all, else when no other place is left."""
    crews = list(crews)
    errors = [error for task in crews if task.done() and (error := task.exception()) is not None]
    for error in errors:
        if not isinstance(error, EngineError) or len(errors) == len(crews):
            raise error


def _raise_hopeless(error: Exception) -> None:
    """Raise an error that another worker would meet as well: of a recipe, a server, a disk."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, ServerError) or (
        isinstance(cause, MagpieError) and not isinstance(cause, EngineError)
    ):
        raise cause


def _said(error: Exception) -> str:
    """An error in one line; Ray's own take many."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, TimeoutError):
        return f"no answer for {_SILENCE:.0f} s"
    if type(cause).__module__.startswith("ray."):  # paragraphs for the readers of Ray's logs
        return f"its process is gone ({type(cause).__name__})"
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(cause).__name__


def _no_room(needs: cluster.Needs) -> str:
    wanted = f"{needs.gpus} GPUs on one node" if needs.gpus else "one free CPU core"
    return f"no node of the Ray cluster has {wanted}; see `ray status`, or give a smaller `tensor_parallel`"
