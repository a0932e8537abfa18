"""Workers in this process: one engine at a time."""

from __future__ import annotations

from collections.abc import Sequence

from magpie.engines import open_engine, open_scorer, require_engine
from magpie.errors import EngineError
from magpie.execution.base import Noted, Report, ShardTask
from magpie.execution.runner import (
    OpenEngine,
    OpenScorer,
    PhaseRunner,
    first_missing,
    half_the_slots,
    is_short_of_memory,
)
from magpie.execution.scheduler import TaskQueue
from magpie.plan import BoundPlan, Phase
from magpie.plan.tools import model_key
from magpie.runs.run import Run

_LOADS = 4
"""How often an engine that runs out of memory is loaded, each time with half the slots."""


class LocalExecutor:
    """An Executor. `engines` and `scorers` open what a model needs: a caller may lend ones of its own.

    `keeps_prepared` keeps what steps have loaded until the executor is closed; by default until the end of a phase.
    """

    def __init__(
        self,
        engines: OpenEngine = open_engine,
        scorers: OpenScorer = open_scorer,
        *,
        keeps_prepared: bool = False,
    ) -> None:
        self._runner = PhaseRunner(engines, scorers, keeps_prepared=keeps_prepared)
        self._tasks = TaskQueue()
        self._slot_limits: dict[str, int] = {}  # by model, once it has run out of memory with more

    async def run(
        self, run: Run, bound: BoundPlan, phase: Phase, tasks: Sequence[ShardTask], report: Report
    ) -> None:
        """Take every shard through the phase. Raises EngineError where this machine lacks an engine of any phase."""
        for later in bound.plan.phases:  # said before the first phase, not hours later
            if later.needs_engine and later.model is not None:
                require_engine(later.model)
        await self._load(bound, phase, first_missing(phase, tasks), report)
        self._tasks = TaskQueue(tasks)
        await self._runner.work(run, bound, phase, self._tasks, report)

    async def _load(self, bound: BoundPlan, phase: Phase, first: int, report: Report) -> None:
        """Load what the phase needs, with half the slots where an engine runs out of memory, and half again."""
        key = "" if phase.model is None else model_key(phase.model)
        for attempts_left in reversed(range(_LOADS)):
            slots = self._slot_limits.get(key)
            try:
                return await self._runner.load(bound, phase, first, report, slots=slots)
            except EngineError as error:
                if not attempts_left or slots == 1 or not is_short_of_memory(error):
                    raise
                asked = None if phase.model is None else phase.model.slots
                self._slot_limits[key] = half_the_slots(error, slots, asked)
                report(Noted(f"{error}; loading it again with {self._slot_limits[key]} slots"))
        return None

    def drain(self) -> bool:
        """Begin with no more shards. Whether any are in flight."""
        self._tasks.drop_waiting()
        return self._tasks.running > 0

    async def close(self) -> None:
        """Let the engine go, and what steps have loaded."""
        await self._runner.close()
