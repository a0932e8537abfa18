"""Workers on every GPU of a machine or of a cluster, by Ray Core: one actor an engine, each in its placement group.

Nothing but shard numbers and events goes through Ray; rows go through the run's storage, which every node must reach.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence, Set

from magpie.engines import find_engine, open_engine, open_scorer
from magpie.errors import EngineError, MagpieError, RunError, ServerError
from magpie.execution.base import Noted, Report, ShardTask
from magpie.execution.ray import cluster
from magpie.execution.ray.dispatcher import Dispatcher
from magpie.execution.ray.replica import PhaseWork, Replica
from magpie.execution.runner import OpenEngine, OpenScorer, first_missing, is_short_of_memory
from magpie.plan import BoundPlan, Phase
from magpie.runs.run import Run
from magpie.storage import MemoryStorage
from magpie.text import counted

_LONGEST_WAIT = 60.0
"""Seconds between two attempts to start a worker grow up to this."""

_ATTEMPTS = 6
"""Attempts to start a worker, or to get one shard through it, before it is given up."""

_LOOK_FOR_NODES = 10.0

_WAITS_QUIETLY = 30.0
"""Seconds that workers wait for room on the cluster before it is said; at once where no node has any."""


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
        self._address, self._asked_replicas = address, replicas
        self._engines, self._scorers = engines, scorers
        self._replicas: dict[int, Replica] = {}
        self._supervisors: dict[int, asyncio.Task[None]] = {}  # of the phase under way
        self._owns_cluster: bool | None = None
        self._dispatcher: Dispatcher | None = None
        self._wants_one = False
        self._said_to_wait: set[cluster.Resources] = set()

    async def run(
        self, run: Run, bound: BoundPlan, phase: Phase, tasks: Sequence[ShardTask], report: Report
    ) -> None:
        """Take every shard through the phase. Raises EngineError when no worker is left, or none will ever fit."""
        if isinstance(run.storage, MemoryStorage):
            raise RunError("a run in memory cannot be shared with Ray's workers; give it a folder")
        await self._connect()
        resources = self._resources_for(phase)
        dispatcher = self._dispatcher = Dispatcher(run, bound, phase, tasks, report)
        first = first_missing(phase, tasks)
        work = PhaseWork(run, bound, phase, first, report, dispatcher, self._engines, self._scorers)
        self._wants_one = _is_served_elsewhere(phase)
        for replica in [replica for replica in self._replicas.values() if replica.resources != resources]:
            await self._give_up(replica)  # its GPUs are wanted for workers of another size
        supervisors = self._supervisors = {}
        try:
            await self._keep_workers(work, resources)
            # Their last exchange ends soon, and what they have loaded stays for the next phase. The others wait for
            # room, load or pause, which may take long, and nothing is left for them to do.
            if ending := [task for number, task in supervisors.items() if self._is_loaded(number)]:
                await asyncio.wait(ending)
        finally:
            for task in supervisors.values():
                task.cancel()
            await asyncio.gather(*supervisors.values(), return_exceptions=True)
            self._dispatcher, self._supervisors = None, {}

    def drain(self) -> bool:
        """Hand out no more shards. Whether any are in flight."""
        return self._dispatcher is not None and self._dispatcher.drain()

    async def close(self) -> None:
        """End all workers, and the cluster if it was started here."""
        await asyncio.gather(*(replica.close() for replica in self._replicas.values()))
        self._replicas.clear()
        if self._owns_cluster:
            self._owns_cluster = None
            await asyncio.to_thread(cluster.disconnect)

    async def _keep_workers(self, work: PhaseWork, resources: cluster.Resources) -> None:
        """Have as many workers as there should be, nodes that join included, until the phase is over."""
        dispatcher, supervisors = work.dispatcher, self._supervisors
        while not dispatcher.is_over:
            if not dispatcher.is_draining:
                wanted, idle = self._wanted(resources), self._idle()
                for number in _to_start(wanted, dispatcher.unfinished, supervisors.keys(), idle):
                    replica = self._replicas.setdefault(number, Replica(number, resources))
                    supervisors[number] = asyncio.create_task(self._supervise(replica, work))
            self._say_that_it_waits(resources, work.report)
            at_work = [task for task in supervisors.values() if not task.done()]
            if at_work:
                await asyncio.wait(at_work, timeout=_LOOK_FOR_NODES, return_when=asyncio.FIRST_COMPLETED)
            if not dispatcher.is_over:  # else it does not matter any more
                _raise_errors(supervisors.values())

    async def _connect(self) -> None:
        if self._owns_cluster is None:
            # Without GPUs, workers share the cores: there is room for as many as were asked for.
            self._owns_cluster = cluster.connect(self._address, cpus=self._asked_replicas)

    def _resources_for(self, phase: Phase) -> cluster.Resources:
        """What a worker of the phase takes. Raises EngineError where there will never be room for one."""
        # Nodes may join a cluster at any time. One that was started here is this machine, and stays so.
        may_grow = not self._owns_cluster
        resources = cluster.resources_for(phase.model, loads=_loads_weights(phase), may_grow=may_grow)
        if not may_grow and not cluster.capacity(resources):
            raise EngineError(
                f"a worker takes {resources}, and this machine has {cluster.described()}; "
                "give a smaller `tensor_parallel`"
            )
        return resources

    def _wanted(self, resources: cluster.Resources) -> int:
        """How many workers there should be now."""
        if self._asked_replicas is not None:
            return self._asked_replicas
        # One alone asks a server for as much at once as the recipe allows. And one is asked for where none fits yet:
        # it is by what waits for room that an autoscaler knows which nodes to start.
        return 1 if self._wants_one else max(1, cluster.capacity(resources))

    def _beside(self, resources: cluster.Resources) -> int:
        """How many workers share a node at most."""
        return -(-self._wanted(resources) // max(1, cluster.living_nodes()))

    def _say_that_it_waits(self, resources: cluster.Resources, report: Report) -> None:
        """Say that workers wait for room, and for what: once, and again only when all such had room in between."""
        since = [replica.waits_since for replica in self._replicas.values()]
        waits = [each for each in since if each is not None]
        if not waits:
            self._said_to_wait.discard(resources)
            return
        is_due = time.monotonic() - min(waits) >= _WAITS_QUIETLY or not cluster.capacity(resources)
        if is_due and resources not in self._said_to_wait:
            self._said_to_wait.add(resources)
            no_gpu = "; a model with `device: cpu` takes no GPU" if resources.gpus else ""
            advice = (
                "no node joins a Ray that was started here: give fewer `--replicas`"
                if self._owns_cluster
                else f"they begin as nodes join (see `ray status`){no_gpu}"
            )
            report(
                Noted(
                    f"{len(waits)} of {len(since)} workers wait for room on the Ray cluster: each takes {resources} of "
                    f"one node, and it has {counted(cluster.living_nodes(), 'node')} with {cluster.described()}; "
                    f"{advice}"
                )
            )

    async def _supervise(self, replica: Replica, work: PhaseWork) -> None:
        """Keep a worker at work until the phase is over. Raises what another worker could not mend either."""
        while work.dispatcher.wants_workers:
            try:
                await replica.start(work, beside=self._beside(replica.resources))
                await replica.feed(work)
                return
            except asyncio.CancelledError:
                await self._give_up(replica)
                raise
            except Exception as error:
                await replica.release()
                waiting = await work.dispatcher.lost(
                    replica.number, with_its_node=replica.has_lost_its_node()
                )
                _raise_hopeless(error)
                if work.dispatcher.wants_workers:
                    await self._recover(replica, work, error, waiting)

    async def _recover(self, replica: Replica, work: PhaseWork, error: Exception, waiting: int) -> None:
        """After a death: less for the next worker where that may help, and a pause. Raises EngineError in the end."""
        name, said = replica.node or "a worker", _said(error)
        if not replica.has_lost_its_node():  # nodes may come and go as often as they like
            replica.failures += 1
        if replica.failures >= _ATTEMPTS:
            raise EngineError(f"{name} died {_ATTEMPTS} times in a row: {said}") from error
        if work.phase.needs_engine and is_short_of_memory(error):
            slots = replica.halve_slots(work.phase, getattr(error, "cause", None) or error)
            said += f"; the next has {slots} slots"
        again = f", waiting for another: {counted(waiting, 'shard')}" if waiting else ""
        if idle := self._idle():
            # It holds the room that a new worker would wait for, and need not be started.
            replica.take_over(self._replicas.pop(min(idle)))
            work.report(Noted(f"lost {name}: {said}{again}; {replica.node} takes its place"))
            return
        pause = min(2.0**replica.failures, _LONGEST_WAIT)
        work.report(Noted(f"lost {name}: {said}{again}; a new worker starts in {pause:.0f} s"))
        await asyncio.sleep(pause)

    def _idle(self) -> set[int]:
        """The workers that an earlier phase has left, and for which this one had no shard."""
        standing = {number for number, replica in self._replicas.items() if replica.actor is not None}
        return standing - self._supervisors.keys()

    def _is_loaded(self, number: int) -> bool:
        return number in self._replicas and self._replicas[number].is_loaded

    async def _give_up(self, replica: Replica) -> None:
        self._replicas.pop(replica.number, None)
        await replica.release()


def _to_start(wanted: int, unfinished: int, begun: Set[int], idle: Set[int]) -> list[int]:
    """The numbers of the workers to start now, where those that have `begun` with the phase are at it, or given up.

    There are never more than shards to make: one more would load an engine for nothing, and be ended at that.
    """
    # Not in the place of one that is given up: where no engine starts at all, that is then known at once.
    count = max(0, min(wanted, unfinished) - len(begun))
    # The idle first, whatever their numbers: they hold the room that a new one would wait for.
    new = set(range(wanted)) - begun - idle
    return [*sorted(idle), *sorted(new)][:count]


def _loads_weights(phase: Phase) -> bool:
    """Whether the worker loads the phase's model: in its engine, or by a step, which needs no engine for it."""
    if phase.model is None:
        return False
    capabilities = find_engine(phase.model.engine).capabilities
    return capabilities.loads_weights if phase.needs_engine else capabilities.loads_files


def _is_served_elsewhere(phase: Phase) -> bool:
    """Whether the phase's model has weights, and a server holds them."""
    if phase.model is None or not phase.needs_engine:
        return False
    capabilities = find_engine(phase.model.engine).capabilities
    return capabilities.loads_files and not capabilities.loads_weights


def _raise_errors(supervisors: Iterable[asyncio.Task[None]]) -> None:
    """Raise what a worker was given up for: at once when it concerns all, else when no other is left."""
    supervisors = list(supervisors)
    errors = [error for task in supervisors if task.done() and (error := task.exception()) is not None]
    for error in errors:
        if not isinstance(error, EngineError) or len(errors) == len(supervisors):
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
