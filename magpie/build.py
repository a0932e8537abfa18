"""Build a recipe into a run, from nothing or from wherever an earlier build stopped.

This is the one place that puts a build together: recipe, plan, storage, executor, dataset, summary.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magpie.engines.gpus import gpus_here
from magpie.execution.choice import ExecutorName, open_executor
from magpie.execution.driver import Driver
from magpie.execution.local import LocalExecutor
from magpie.execution.log import Log
from magpie.execution.peek import Peek
from magpie.execution.progress import Progress
from magpie.execution.signals import GRACE, Stoppable
from magpie.figures.gatekeeper import Gatekeeper
from magpie.figures.pace import PLANNED, planned_rates
from magpie.figures.run_log import FIRST_STAGE
from magpie.figures.summary import write_summary
from magpie.plan import BoundPlan, BuildTools, Plan, adopt_commits, bind, make_plan, pin_commits
from magpie.plan.licences import licences_of
from magpie.recipe import EngineKind, Recipe
from magpie.recipe.loading import load_recipe
from magpie.report.cell import notebook_cell
from magpie.runs.kept import write_dataset
from magpie.runs.record import (
    ingredients_of,
    record,
    recorded_recipe,
    refuse_another_recipe,
    refuse_other_ingredients,
    refuse_other_things,
)
from magpie.runs.reuse import take_over
from magpie.runs.run import DATASET, Run
from magpie.runs.verify import seal
from magpie.sizing.cards import card_of_device, driver_names
from magpie.steps import Method
from magpie.storage import Storage, open_storage
from magpie.terminal import new_console
from magpie.user_code import with_code

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.execution.base import Executor


def build(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    rows: int | None = None,
    seed: int | None = None,
    engine: EngineKind | None = None,
    overrides: dict[str, Any] | None = None,
    stop_after: str | None = None,
    reuse: str | Path | None = None,
    executor: Executor | ExecutorName = "auto",
    replicas: int | None = None,
    address: str | None = None,
    grace: float = GRACE,
    method: Method | None = None,
    report: bool | None = None,
    peek: bool = False,
    console: Console | None = None,
    allow_code: bool = False,
    go_on: bool = False,
) -> Run:
    """Build a recipe (a Recipe, a dict, a file, or a shipped recipe's name) into folder `out`, by default runs/NAME.

    Run it again to go on where it stopped: whole shards are kept, damaged ones made again. `stop_after` names the last
    step to run. `reuse` is the folder of another run, from which steps are taken over up to the first that differs.
    `executor` takes shards through the phases: "local" in this process, "ray" in as many `replicas` as the GPUs of the
    cluster at `address` hold (by default this machine), "auto" by Ray where there are GPUs for several engines. One
    that is given open stays open. `grace` is how many seconds shards in flight may go on after SIGTERM or SIGUSR1.
    `method` lists the steps that a recipe may ask for, by default those of the method that the recipe names. `report`
    writes the run's report.html at the end; None does so unless MAGPIE_REPORT is 0. Progress is shown on `console`, or
    in the notebook's cell that calls this; with `peek` the first rows are printed there as they come. `allow_code` lets
    the recipe's own steps run, which are Python code: say so only of code that you trust.

    `go_on` passes the gate at which the run was paused.

    Raises RecipeError and ChatFormatError before any model is loaded, RecipeChangedError when the folder holds another
    recipe's run, StoppedError on a signal, GateError where the recipe's gate ends the build.
    """
    recipe = load_recipe(recipe, rows=rows, seed=seed, engine=engine, overrides=overrides)
    recipe = with_code(recipe, allowed=allow_code)
    cell = None if console is not None else notebook_cell()
    # All that is wrong with the recipe itself comes out before anything is touched.
    plan = make_plan(recipe, method)
    storage = open_storage(out if out is not None else Path("runs") / recipe.name)
    if stop_after is not None:
        Run(storage, recipe, plan.steps).step(stop_after)
    source = None if reuse is None else Run.open(reuse, method)
    storage.prepare()
    refuse_other_things(storage)
    with Stoppable(grace) as stoppable, storage.lock():
        storage.sweep()
        tools = BuildTools()
        plan = _planned_with(_with_recorded_commits(recipe, storage, source), plan, method)
        run = Run(storage, plan.recipe, plan.steps)
        refuse_another_recipe(run)
        with Progress(run.steps, recipe.rows, log=Log(run), console=console, cell=cell) as progress:
            progress.doing(FIRST_STAGE)
            plan = _planned_with(pin_commits(plan, tools), plan, method)
            run, bound = Run(storage, plan.recipe, plan.steps), bind(plan, tools)
            _open_record(run, bound, source, progress)
            named = isinstance(executor, str)
            executor = (
                open_executor(executor, plan, address=address, replicas=replicas)
                if isinstance(executor, str)
                else executor
            )
            _log_plan(plan, executor, progress)
            on_event = (
                progress.handle if not peek else Peek(run, console or new_console()).beside(progress.handle)
            )
            gatekeeper = Gatekeeper(run, progress.note, go_on=go_on)
            driver = Driver(run, bound, executor, on_event, check=gatekeeper)
            try:
                stoppable.run(_drive(driver, executor, stop_after, close=named), drain=driver.drain)
                storage.sweep()  # what a worker was writing that died on the way
                _finish(run, driver, progress, stop_after, report=_wants_report(report))
            except BaseException as error:
                progress.log.write("ended early", why=f"{type(error).__name__}: {error}")
                raise
    return run


async def _drive(driver: Driver, executor: Executor, stop_after: str | None, *, close: bool) -> None:
    try:
        await driver.build(stop_after=stop_after)
    finally:
        if close:
            await executor.close()


def _finish(run: Run, driver: Driver, progress: Progress, stop_after: str | None, *, report: bool) -> None:
    """Write what a finished run has besides its shards, and say how it ended."""
    if stop_after is not None:
        progress.doing(f"stopped after {stop_after}, as asked")
        return
    progress.doing("writing the dataset")
    write_dataset(run, driver.lineage, driver.kept)
    write_summary(run)
    seal(run, driver.seals)
    progress.log.write("finished", kept=driver.kept, seconds=round(time.monotonic() - progress.began_at, 1))
    if report:
        _write_report(run, progress)
    place = run.storage.place(DATASET.rstrip("/"))
    progress.doing(f"{driver.kept:,} of {run.recipe.rows:,} rows kept in {place}")
    if driver.kept == 0:
        progress.note(f"not one row is left; see why with: magpie show {run.storage.location} --rejected")


def _wants_report(report: bool | None) -> bool:
    return os.environ.get("MAGPIE_REPORT", "1") != "0" if report is None else report


def _write_report(run: Run, progress: Progress) -> None:
    """Write the report of a finished run, unless it is there: the run is whole without it."""
    from magpie.report.page.writing import MOST_ROWS, is_up_to_date, write_at_end

    try:
        if is_up_to_date(run):
            return
        if run.recipe.rows > MOST_ROWS:
            progress.note(
                f"the report is not written by itself for so many rows: magpie report {run.storage.location}"
            )
            return
        progress.doing("writing the report")
        write_at_end(run)
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        progress.note(
            f"the report could not be written ({why}); write it with: magpie report {run.storage.location}"
        )


def _log_plan(plan: Plan, executor: Executor, progress: Progress) -> None:
    """Log how fast each phase should be at most on this machine's GPUs, where they are known: `status` shows it."""
    gpus = gpus_here()
    devices = driver_names() if gpus else []
    card = card_of_device(devices[0]) if devices else None
    if card is not None:
        rates = planned_rates(plan, card, gpus=None if isinstance(executor, LocalExecutor) else gpus)
        progress.log.write(PLANNED, card=card.name, gpus=gpus, rows_per_second=rates)
        progress.planned = {
            phase.steps[0].name: rates[phase.name] for phase in plan.phases if phase.name in rates
        }


def _with_recorded_commits(recipe: Recipe, storage: Storage, source: Run | None) -> Recipe:
    """The recipe with the hub commits that this run, or the one it takes over from, began with."""
    recorded = recorded_recipe(storage) or (None if source is None else recorded_recipe(source.storage))
    return adopt_commits(recipe, recorded)


def _planned_with(recipe: Recipe, plan: Plan, method: Method | None) -> Plan:
    """The plan of a recipe that differs from the planned one in commits at most; mostly the same one."""
    return plan if recipe == plan.recipe else make_plan(recipe, method)


def _open_record(run: Run, bound: BoundPlan, source: Run | None, progress: Progress) -> None:
    """Refuse a run that was made in another way; else record how this one is made, and take over what is alike."""
    ingredients = ingredients_of(run.recipe, bound.ingredients)
    refuse_other_ingredients(run, ingredients)
    record(run, ingredients)
    if source is not None:
        taken = take_over(run, source, ingredients)
        if taken:
            progress.note(f"taken over from {source.storage.location}: {', '.join(taken)}")
    for licensed in licences_of(bound.plan):
        if licensed.free is False:
            progress.note(f"licence {licensed.text}")
    for rule in run.skipped_rules:
        progress.note(f"filter rule left out, the run has no such column: {rule}")
    needed, free = bound.plan.disk_bytes, run.storage.free_bytes()
    if free is not None and free < needed:
        progress.note(
            f"the run may take {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free; "
            "a full disk stops the build, it loses nothing"
        )
    progress.log.write("started", recipe=run.recipe.name, rows=run.recipe.rows, shards=run.shards)
