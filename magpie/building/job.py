"""One build from start to end: the run is recorded, shards are driven through the phases, the dataset is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from magpie.building.consent import ask_consent
from magpie.building.notices import (
    log_plan,
    note_at_start,
    note_newly_rejected,
    room_needed,
    write_report,
)
from magpie.building.rounds import RoundPlanner
from magpie.errors import FullDiskError, ShortError
from magpie.execution.driver import Driver
from magpie.execution.executors import ExecutorName, open_executor
from magpie.execution.log import Log
from magpie.execution.peek import Peek
from magpie.execution.progress import Cell, Progress
from magpie.execution.signals import Stoppable
from magpie.figures.gatekeeper import Gatekeeper
from magpie.figures.run_log import FIRST_STAGE
from magpie.figures.status import Status, as_ended, status
from magpie.figures.summary import write_summary
from magpie.plan import BuildTools, Plan, adopt_commits, bind, make_plan, pin_commits
from magpie.plan.until import first_rows_of
from magpie.recipe import Recipe
from magpie.runs.change import begin_change, change_of, refuse_what_cannot_change
from magpie.runs.earlier import drop_earlier, earlier_runs
from magpie.runs.kept import write_dataset
from magpie.runs.record import Ingredients, ingredients_of, record, recorded_recipe
from magpie.runs.reuse import take_over
from magpie.runs.run import DATASET, STEPS, Run
from magpie.runs.standing import Source, source_of
from magpie.runs.verify import seal
from magpie.steps import Method
from magpie.storage import LocalStorage, Storage
from magpie.terminal import new_console

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.execution.base import Executor, Report


@dataclass(slots=True)
class Round:
    """One round of a build: a run that is ready to be driven. Without `until` there is one round."""

    run: Run
    plan: Plan
    driver: Driver
    executor: Executor
    progress: Progress


@dataclass(slots=True)
class BuildJob:
    """One call of `magpie.build.build`, which says what each setting means. `agreed` is its `yes`."""

    storage: Storage
    method: Method | None
    source: Run | None
    executor: Executor | ExecutorName
    address: str | None
    replicas: int | None
    stop_after: str | None
    report: bool
    peek: bool
    agreed: bool
    ask: Callable[[str], bool] | None
    keep_old: bool
    accept_short: bool
    go_on: bool
    on_end: Callable[[Status], None] | None
    console: Console | None
    cell: Cell | None
    tools: BuildTools = field(default_factory=BuildTools)
    _current: Round | None = None
    _rounds: RoundPlanner = field(default_factory=RoundPlanner)

    def run(self, plan: Plan, stoppable: Stoppable) -> Run:
        """Build what is planned, or go on with it; the finished run, or as far as `stop_after`."""
        with ExitStack() as stack:
            self._begin(plan, stack)
            try:
                stoppable.run(self._drive(stack), drain=self._drain)
                self.storage.sweep()  # what a worker was writing that died on the way
                counted = self._finish(self._round)
            except BaseException as error:
                self._round.progress.log.write("ended early", why=f"{type(error).__name__}: {error}")
                if isinstance(error, FullDiskError) and isinstance(self.storage, LocalStorage):
                    needed = room_needed(self._round.run, self._round.plan)
                    raise FullDiskError(f"{error}; {needed}") from error
                raise
        short = None if self.accept_short or self.stop_after is not None else self._rounds.short
        if short is not None:
            raise ShortError(short)
        run = self._round.run
        if self.on_end is not None:
            self.on_end(as_ended(status(run) if counted is None else counted, run))
        return run

    def _drain(self) -> bool:
        return self._round.driver.drain()  # of whichever round it is

    @property
    def _round(self) -> Round:
        assert self._current is not None
        return self._current

    def _begin(self, plan: Plan, stack: ExitStack) -> None:
        """Record the run, put aside what it replaces, and open a round. Progress is shown until `stack` closes."""
        plan = self._agreed_plan(plan)
        run = Run(self.storage, plan.recipe, plan.steps)
        progress = stack.enter_context(
            Progress(run.steps, run.recipe.rows, log=Log(run), console=self.console, cell=self.cell)
        )
        progress.doing(FIRST_STAGE)
        plan = self._planned(pin_commits(plan, self.tools), plan)
        run, bound = Run(self.storage, plan.recipe, plan.steps), bind(plan, self.tools)
        ingredients = ingredients_of(run.recipe, bound.ingredients)
        self._record(run, ingredients, progress)
        if self.source is not None:
            taken = take_over(run, self.source, ingredients)
            if taken:
                progress.note(f"taken over from {self.source.storage.location}: {', '.join(taken)}")
        note_at_start(run, plan, progress)
        executor = self._opened_executor(plan, progress)
        report: Report = progress.handle
        if self.peek:
            report = stack.enter_context(Peek(run, self.console or new_console())).beside(report)
        driver = Driver(
            run,
            bound,
            executor,
            report,
            find_sources=lambda: self._sources(run, ingredients, progress),
            gate_checker=Gatekeeper(run, progress.note, go_on=self.go_on),
        )
        self._current = Round(run, plan, driver, executor, progress)

    def _agreed_plan(self, plan: Plan) -> Plan:
        """What this round builds, by what was recorded before. Where a person is asked, nothing was changed yet."""
        has_rows = bool(self.storage.names(STEPS))
        if self._current is None:
            recorded = recorded_recipe(self.storage) if has_rows else None
            plan = self._planned(first_rows_of(plan.recipe, recorded), plan)
        plan = self._planned(adopt_commits(plan.recipe, self._recorded()), plan)
        run = Run(self.storage, plan.recipe, plan.steps)
        refuse_what_cannot_change(run, changes=self._may_change)
        # Also where the recipe is the same: what it names, such as a file, may be another.
        if self._current is None and run.has_shards:
            plan = self._planned(pin_commits(plan, self.tools), plan)
            ask_consent(
                Run(self.storage, plan.recipe, plan.steps), bind(plan, self.tools), self.method,
                agreed=self.agreed, ask=self.ask, console=self.console,
            )  # fmt: skip
        return plan

    @property
    def _may_change(self) -> bool:
        """Whether there is a person who agrees to changes of a run in its place."""
        return self.agreed or self.ask is not None

    def _record(self, run: Run, ingredients: Ingredients, progress: Progress) -> None:
        """Record how the run is made, in the place of what was there where it changes."""
        change = change_of(run, ingredients, changes=self._may_change)
        if change is None:
            record(run, ingredients)
            return
        place = begin_change(run, ingredients, keep=self.keep_old)
        if self._current is None:  # rounds of one build say by themselves what they ask for
            progress.note(f"changed: {change}; as it was, the run is in {place} until the new one stands")
        progress.log.write("changed", what=str(change))

    def _sources(self, run: Run, ingredients: Ingredients, progress: Progress) -> tuple[Source, ...]:
        """The earlier runs, of this folder and of the one to reuse, in which rows may stand."""
        others = earlier_runs(run, self.method)
        if self.source is not None:
            others.append(self.source)
        if others:
            progress.doing("looking at what stands")
        found = (source_of(run, other, ingredients) for other in others)
        return tuple(source for source in found if source is not None)

    def _opened_executor(self, plan: Plan, progress: Progress) -> Executor:
        """That of the round before, the one that was given, or one that is opened here."""
        if self._current is not None:
            return self._current.executor
        if isinstance(self.executor, str):
            executor = open_executor(self.executor, plan, address=self.address, replicas=self.replicas)
        else:
            executor = self.executor
        log_plan(plan, executor, progress)
        return executor

    async def _drive(self, stack: ExitStack) -> None:
        """Make what is missing, and as long as too few rows are kept, more rows."""
        try:
            while True:
                done = self._round
                await done.driver.build(stop_after=self.stop_after)
                more = self._rounds.next(done.run, done.progress) if done.run.recipe.until else None
                if more is None:
                    return
                stack.close()  # the progress of so many rows
                # Not in a thread: nothing of it may go on when the build is stopped.
                self._begin(self._planned(more, done.plan), stack)
        finally:
            if isinstance(self.executor, str):
                await self._round.executor.close()

    def _finish(self, last: Round) -> Status | None:
        """Write what a finished run has besides its shards, and say how it ended. The status, if it was counted."""
        run, driver, progress = last.run, last.driver, last.progress
        if self.stop_after is not None:
            progress.doing(f"stopped after {self.stop_after}, as asked")
            return None
        progress.doing("writing the dataset")
        write_dataset(run, driver.lineage, driver.kept)
        counted = status(run)
        write_summary(run, counted)
        seal(run, driver.seals)
        note_newly_rejected(run, driver.sources, progress)
        drop_earlier(self.storage, keep=self.keep_old)
        progress.log.write(
            "finished", kept=driver.kept, seconds=round(time.monotonic() - progress.began_at, 1)
        )
        if self.report:
            write_report(run, progress)
        place = run.storage.place(DATASET.rstrip("/"))
        progress.doing(f"{driver.kept:,} of {run.recipe.rows:,} rows kept in {place}")
        if driver.kept == 0:
            progress.note(f"not one row is left; see why with: magpie show {run.storage.location} --rejected")
        return counted

    def _recorded(self) -> dict[str, object] | None:
        """The recipe that this run, or the one it takes over from, began with: for its hub commits."""
        recorded = recorded_recipe(self.storage)
        if recorded is None and self.source is not None:
            recorded = recorded_recipe(self.source.storage)
        return recorded

    def _planned(self, recipe: Recipe, plan: Plan) -> Plan:
        """The plan of a recipe that differs from the planned one in commits at most; mostly the same one."""
        return plan if recipe == plan.recipe else make_plan(recipe, self.method)
