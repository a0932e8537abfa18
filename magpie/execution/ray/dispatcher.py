"""Assigns the shards of a phase to workers, and takes back those whose worker has died.

A shard whose worker dies is assigned again. One that has lost three workers is suspected of killing them: it gets a
worker for itself, which announces every request before it makes it. When that dies too, what was announced and not
answered is suspect, and is made one by one in the next worker; the one that was being made when that died is deadly.
It is not made again, and its row is rejected with an engine error.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from magpie.errors import DamagedShardError, RunError
from magpie.execution.base import (
    Answered,
    Asked,
    Committed,
    Event,
    Isolation,
    Noted,
    Report,
    ShardDone,
    ShardTask,
)
from magpie.execution.scheduler import ShardDemand
from magpie.execution.worker import rejections, stamp_for
from magpie.plan import BoundPlan, Phase
from magpie.runs.manifest import lineage_after
from magpie.runs.run import Run, RunStep
from magpie.steps.base import REJECTED
from magpie.storage.sealed import Shard, inspect_shard

SUSPECT_AFTER = 3
"""Workers that a shard may lose before it is suspected of killing them."""

_AT_ONCE = 32
"""Requests of a suspected shard in the engine at once: two more workers are lost until the deadly one is known."""

_PLENTY = 2
"""Shards a worker that have to wait for any of them to be given in reserve."""

_MOST_WORKERS = 24
"""Workers that one shard may lose in all: an engine that dies again and again is not the shard's fault."""


@dataclass(frozen=True, slots=True)
class _OnStorage:
    """What there is of a shard: its committed steps by number, those that its task does not know, whether all are."""

    committed: dict[int, Shard]
    unknown: list[Committed]
    is_done: bool


class Dispatcher:
    """The shards of one phase, and who has which. `worker` is any number that names a worker to the executor."""

    def __init__(
        self, run: Run, bound: BoundPlan, phase: Phase, tasks: Sequence[ShardTask], report: Report
    ) -> None:
        self._run, self._bound, self._phase, self._report = run, bound, phase, report
        self._tasks = {task.shard: task for task in tasks}
        self._waiting = deque(self._tasks)
        self._suspected: deque[int] = deque()
        self._assigned: dict[int, set[int]] = {}  # by worker
        self._workers_lost: Counter[int] = Counter()  # by shard
        self._announced: dict[int, set[str]] = {}  # requests by shard, made and not answered
        self._reported: set[tuple[int, int]] = set()  # what the driver knows, by step number and shard
        self.is_draining = False

    @property
    def is_over(self) -> bool:
        """Whether every shard is done."""
        return not self._tasks

    @property
    def wants_workers(self) -> bool:
        """Whether a worker that starts now may be given a shard."""
        return bool(self._tasks) and not self.is_draining

    @property
    def has_waiting(self) -> bool:
        """Whether a shard waits for a worker."""
        return bool(self._waiting or self._suspected)

    @property
    def unfinished(self) -> int:
        """How many shards are not done."""
        return len(self._tasks)

    def drain(self) -> bool:
        """Assign nothing more: it is over when what is assigned is done, or lost. Whether anything is assigned."""
        self.is_draining = True
        assigned = set[int]().union(*self._assigned.values())
        self._tasks = {shard: task for shard, task in self._tasks.items() if shard in assigned}
        self._waiting.clear()
        self._suspected.clear()
        return bool(self._tasks)

    def assign(self, worker: int, demand: ShardDemand) -> list[ShardTask]:
        """Shards for a worker: as many as it could begin with, and those for its reserve while there is plenty."""
        assigned = self._assigned.setdefault(worker, set())
        if any(self._tasks[shard].isolation is not None for shard in assigned):
            return []  # it has the suspected one for itself
        # At the end of a phase a shard in one worker's reserve is one that another could have begun with.
        has_plenty = len(self._waiting) > demand.now + _PLENTY * len(self._assigned)
        count = demand.now + (demand.reserve if has_plenty else 0)
        shards = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        if not shards and not assigned and self._suspected:
            shards.append(self._suspected.popleft())
        assigned.update(shards)
        return [self._tasks[shard] for shard in shards]

    def handle(self, worker: int, event: Event) -> None:
        """Note what a worker reports, and pass it on."""
        match event:
            case Asked(shard, request):
                self._announced.setdefault(shard, set()).add(request)
                return
            case Answered(shard, request):
                self._announced.get(shard, set()).discard(request)
                return
            case ShardDone(shard):
                self._tasks.pop(shard, None)
                self._assigned.get(worker, set()).discard(shard)
            case Committed(_, number, shard, _, _, _):
                if (number, shard) in self._reported:
                    return
                self._reported.add((number, shard))
        self._report(event)

    async def lost(self, worker: int, *, with_its_node: bool = False) -> int:
        """A worker has died: its shards wait again, in front; how many. They have not killed it if its node is gone.

        Raises RunError for a shard that loses too many workers, and StorageError where what the worker has committed
        cannot be read.
        """
        shards = sorted(self._assigned.pop(worker, set()))
        for shard in shards:
            if with_its_node:
                self._announced.pop(shard, None)  # no request of it is to blame
                continue
            self._workers_lost[shard] += 1
            if self._workers_lost[shard] > _MOST_WORKERS:
                # Not an EngineError: those end one worker, and here none of the others could go on with it.
                raise RunError(
                    f"shard {shard} has lost {_MOST_WORKERS} workers and no request of it is to blame; "
                    "see what the engine says with MAGPIE_LOG=debug"
                )
        tasks = [self._tasks[shard] for shard in shards]
        # In a thread: a bucket takes its time to answer, and the other workers wait for shards meanwhile.
        found = await asyncio.to_thread(lambda: [self._on_storage(task) for task in tasks])
        for task, there in zip(reversed(tasks), reversed(found), strict=True):
            self._take_back(task, there)
        return len(shards)

    def _take_back(self, task: ShardTask, there: _OnStorage) -> None:
        """Report what a dead worker has committed of a shard, and have the rest of it made by another."""
        shard = task.shard
        if shard not in self._tasks:
            return  # the build was told to stop while the storage was asked
        for event in there.unknown:
            self.handle(-1, event)
        if there.is_done:
            self.handle(-1, ShardDone(shard))
        elif self.is_draining:
            del self._tasks[shard]
        else:
            task = self._tasks[shard] = replace(task, committed={**task.committed, **there.committed})
            if self._workers_lost[shard] < SUSPECT_AFTER:
                self._waiting.appendleft(shard)
            else:
                self._tasks[shard] = replace(task, isolation=self._next_isolation(task))
                self._suspected.append(shard)

    def _next_isolation(self, task: ShardTask) -> Isolation:
        unanswered = frozenset(self._announced.pop(task.shard, set()))
        before = task.isolation
        if before is None or not unanswered:
            return before or Isolation(_AT_ONCE)
        if before.at_once > 1 and len(unanswered) > 1:
            return Isolation(1, unanswered, before.deadly)
        # One request was in the engine when it died.
        self._report(Noted(f"shard {task.shard}: a request killed its engine; its row is rejected"))
        return Isolation(_AT_ONCE, None, before.deadly | unanswered)

    def _on_storage(self, task: ShardTask) -> _OnStorage:
        """What a dead worker has left of a shard, whether or not it could still report it."""
        committed, unknown, lineage = dict[int, Shard](), list[Committed](), task.made_from
        for run_step in self._phase.steps:
            found = self._inspected(run_step, task.shard, lineage)
            if found is None:
                break
            committed[run_step.number] = found
            if task.committed.get(run_step.number) != found:
                columns = [REJECTED.name] if run_step.step.rejects else ["id"]
                rejected = rejections(self._run.read(run_step, task.shard, columns))
                rows = found.stamp.rows
                unknown.append(Committed(run_step.name, run_step.number, task.shard, rows, rejected, found))
            lineage = lineage_after(lineage, found)
        return _OnStorage(committed, unknown, is_done=len(committed) == len(self._phase.steps))

    def _inspected(self, run_step: RunStep, shard: int, lineage: str) -> Shard | None:
        """The step's shard, where it is there, whole, and made from these rows."""
        if not self._run.has_shard(run_step, shard):
            return None
        try:
            found = inspect_shard(self._run.storage, self._run.shard_name(run_step, shard))
        except DamagedShardError:
            return None
        return found if found.stamp == stamp_for(self._run, self._bound, run_step, shard, lineage) else None
