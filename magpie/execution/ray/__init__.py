"""Workers on every GPU of a machine or of a cluster, by Ray Core: one actor an engine, each in a place of its own.

Nothing but shard numbers and events goes through Ray; rows go through the run's storage, which every node must reach.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from magpie.engines import find_engine, open_engine, open_scorer
from magpie.errors import EngineError, MagpieError, RunError, ServerError
from magpie.execution.base import Noted, Report, ShardTask
from magpie.execution.ray import cluster
from magpie.execution.ray.handout import Handout
from magpie.execution.ray.place import PhaseWork, Place
from magpie.execution.runner import OpenEngine, OpenScorer, first_missing, is_short_of_memory
from magpie.plan import BoundPlan, Phase
from magpie.runs.run import Run
from magpie.storage import MemoryStorage

_LONGEST_WAIT = 60.0
"""Seconds between two attempts to start a worker grow up to this."""

_ATTEMPTS = 6
"""Attempts to start a worker, or to get one shard through it, before its place is given up."""

_LOOK_FOR_NODES = 10.0


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
        self._places: dict[int, Place] = {}
        self._owns_cluster: bool | None = None
        self._handout: Handout | None = None
        self._wants_one = False

    async def run(
        self, run: Run, bound: BoundPlan, phase: Phase, tasks: Sequence[ShardTask], report: Report
    ) -> None:
        """Take every shard through the phase. Raises EngineError when no worker is left."""
        if isinstance(run.storage, MemoryStorage):
            raise RunError("a run in memory cannot be shared with Ray's workers; give it a folder")
        await self._connect()
        needs = cluster.needs_of(phase.model, loads=_loads_weights(phase))
        handout = self._handout = Handout(run, bound, phase, tasks, report)
        first = first_missing(phase, tasks)
        work = PhaseWork(run, bound, phase, first, report, handout, self._engines, self._scorers)
        self._wants_one = _is_served_elsewhere(phase)
        for place in [place for place in self._places.values() if place.needs != needs]:
            await self._give_up(place)  # its GPUs are wanted for workers of another size
        keepers: dict[int, asyncio.Task[None]] = {}
        try:
            while not handout.is_over:
                for number in range(min(self._wanted(needs), handout.left + len(keepers))):
                    if number not in keepers and not handout.is_draining:
                        place = self._places.setdefault(number, Place(number, needs))
                        keepers[number] = asyncio.create_task(self._keep(place, work))
                if not keepers:
                    raise EngineError(_no_room(needs))
                at_work = [task for task in keepers.values() if not task.done()]
                if at_work:
                    await asyncio.wait(at_work, timeout=_LOOK_FOR_NODES, return_when=asyncio.FIRST_COMPLETED)
                _raise_errors(keepers.values())
        finally:
            for task in keepers.values():
                task.cancel()
            await asyncio.gather(*keepers.values(), return_exceptions=True)
            self._handout = None

    def drain(self) -> bool:
        """Hand out no more shards. Whether any are in flight."""
        return self._handout is not None and self._handout.drain()

    async def close(self) -> None:
        """End all workers, and the cluster if it was started here."""
        await asyncio.gather(*(place.close() for place in self._places.values()))
        self._places.clear()
        if self._owns_cluster:
            self._owns_cluster = None
            await asyncio.to_thread(cluster.disconnect)

    async def _connect(self) -> None:
        if self._owns_cluster is None:
            # Without GPUs, workers share the cores: there are as many places as were asked for.
            self._owns_cluster = cluster.connect(self._address, cpus=self._replicas)

    def _wanted(self, needs: cluster.Needs) -> int:
        if self._replicas is not None:
            return self._replicas
        # One alone asks a server for as much at once as the recipe allows.
        return 1 if self._wants_one else cluster.capacity(needs)

    def _beside(self, needs: cluster.Needs) -> int:
        """How many workers share a node at most."""
        return -(-self._wanted(needs) // max(1, cluster.living_nodes()))

    async def _keep(self, place: Place, work: PhaseWork) -> None:
        """Keep a worker in its place until the phase is over. Raises what another worker could not mend either."""
        while not work.handout.is_over:
            try:
                await place.start(work, beside=self._beside(place.needs))
                await place.feed(work)
                return
            except asyncio.CancelledError:
                await self._give_up(place)
                raise
            except Exception as error:
                await place.release()
                waiting = work.handout.lost(place.number)
                _raise_hopeless(error)
                await self._recover(place, work, error, waiting)

    async def _recover(self, place: Place, work: PhaseWork, error: Exception, waiting: int) -> None:
        """After a death: less for the next worker where that may help, and a pause. Raises EngineError in the end."""
        name, said = place.node or "a worker", _said(error)
        place.failures += 1
        if place.failures >= _ATTEMPTS:
            raise EngineError(f"{name} died {_ATTEMPTS} times in a row: {said}") from error
        if work.phase.needs_engine and is_short_of_memory(error):
            said += f"; the next has {place.halve_slots(work.phase, getattr(error, 'cause', None) or error)} slots"
        again = f", {waiting} shards wait for another" if waiting else ""
        pause = min(2.0**place.failures, _LONGEST_WAIT)
        work.report(Noted(f"lost {name}: {said}{again}; a new worker starts in {pause:.0f} s"))
        await asyncio.sleep(pause)

    async def _give_up(self, place: Place) -> None:
        self._places.pop(place.number, None)
        await place.release()


def _loads_weights(phase: Phase) -> bool:
    """Whether the worker loads the phase's model."""
    if phase.model is None:
        return False
    return not phase.needs_engine or find_engine(phase.model.engine).capabilities.loads_weights


def _is_served_elsewhere(phase: Phase) -> bool:
    """Whether the phase's model has weights, and a server holds them."""
    if phase.model is None or not phase.needs_engine:
        return False
    capabilities = find_engine(phase.model.engine).capabilities
    return capabilities.loads_files and not capabilities.loads_weights


def _raise_errors(keepers: Iterable[asyncio.Task[None]]) -> None:
    """Raise what ended a worker's place: at once when it concerns all, else when no other place is left."""
    keepers = list(keepers)
    errors = [error for task in keepers if task.done() and (error := task.exception()) is not None]
    for error in errors:
        if not isinstance(error, EngineError) or len(errors) == len(keepers):
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
    if type(cause).__module__.startswith("ray."):  # paragraphs for the readers of Ray's logs
        return f"its process is gone ({type(cause).__name__})"
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(cause).__name__


def _no_room(needs: cluster.Needs) -> str:
    wanted = f"{needs.gpus} GPUs on one node" if needs.gpus else "one free CPU core"
    return f"no node of the Ray cluster has {wanted}; see `ray status`, or give a smaller `tensor_parallel`"
