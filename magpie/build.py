"""Build a recipe into a run, from nothing or from wherever an earlier build stopped.

This is the one place that puts a build together: recipe, plan, storage, executor, dataset, summary.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magpie.building.job import BuildJob
from magpie.errors import RecipeError
from magpie.execution.executors import ExecutorName
from magpie.execution.signals import GRACE, Stoppable
from magpie.figures.kept_cells import refuse_unknown_cells
from magpie.plan import make_plan
from magpie.plan.until import with_until
from magpie.recipe import EngineKind, Recipe
from magpie.recipe.loading import load_recipe
from magpie.report.cell import notebook_cell
from magpie.runs.record import refuse_other_things
from magpie.runs.run import Run
from magpie.steps import Method
from magpie.storage import open_storage
from magpie.user_code import with_code

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.execution.base import Executor
    from magpie.figures.status import Status

__all__ = ["build"]


def build(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    rows: int | None = None,
    until_kept: int | None = None,
    accept_short: bool = False,
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
    yes: bool = False,
    ask: Callable[[str], bool] | None = None,
    keep_old: bool = False,
    console: Console | None = None,
    allow_code: bool = False,
    go_on: bool = False,
    on_end: Callable[[Status], None] | None = None,
) -> Run:
    """Build a recipe (a Recipe, a dict, a file, or a shipped recipe's name) into folder `out`, by default runs/NAME.

    Run it again to go on where it stopped: whole shards are kept, damaged ones made again. With more `rows` a run
    grows. Settings of later steps than the first may change in its place with `yes`, or where `ask` gives true as the
    answer to a question: rows that these do not concern are taken over, and what is replaced is kept until the new run
    stands, with `keep_old` for good. `stop_after` names the last step to run. `reuse` is the folder of another run,
    from which is taken over what this one would make alike.
    `until_kept` asks for rows until so many are kept, `rows` at most; `accept_short` is content with fewer.
    `executor` takes shards through the phases: "local" in this process, "ray" in as many `replicas` as the GPUs of the
    cluster at `address` hold (by default this machine), "auto" by Ray where there are GPUs for several engines. One
    that is given open stays open. `grace` is the seconds that shards in flight have after SIGTERM, SIGUSR1 or SIGHUP.
    `method` lists the steps that a recipe may ask for, by default those of the method that the recipe names. `report`
    writes the run's report.html at the end; None does so unless MAGPIE_REPORT is 0. Progress is shown on `console`, or
    in the notebook's cell that calls this; with `peek` the first rows are printed there as they come. `allow_code` lets
    the recipe's own steps run, which are Python code: say so only of code that you trust.

    `go_on` passes the gate at which the run was paused. `on_end` is given the status of the run in the end: the build
    has counted it, which takes seconds for a million rows.

    Raises RecipeError and ChatFormatError before any model is loaded, RecipeChangedError when the folder holds another
    recipe's run, StoppedError on a signal, GateError where the recipe's gate ends the build, ShortError where the
    finished dataset has fewer rows than `until` asks for.
    """
    recipe = load_recipe(
        recipe, rows=rows, seed=seed, engine=engine, overrides=with_until(overrides, until_kept, rows)
    )
    recipe = with_code(recipe, allowed=allow_code)
    if recipe.until is not None and stop_after is not None:
        raise RecipeError("`until` counts rows that are kept at the end; leave out --stop-after")
    cell = None if console is not None else notebook_cell()
    # All that is wrong with the recipe itself comes out before anything is touched.
    plan = make_plan(recipe, method)
    storage = open_storage(out if out is not None else Path("runs") / recipe.name)
    run = Run(storage, recipe, plan.steps)
    refuse_unknown_cells(run)
    if stop_after is not None:
        run.step(stop_after)
    source = None if reuse is None else Run.open(reuse, method)
    storage.prepare()
    refuse_other_things(storage)
    with Stoppable(grace) as stoppable, storage.lock():
        storage.sweep()
        job = BuildJob(
            storage=storage,
            method=method,
            source=source,
            executor=executor,
            address=address,
            replicas=replicas,
            stop_after=stop_after,
            report=os.environ.get("MAGPIE_REPORT", "1") != "0" if report is None else report,
            peek=peek,
            agreed=yes,
            ask=ask,
            keep_old=keep_old,
            accept_short=accept_short,
            go_on=go_on,
            on_end=on_end,
            console=console,
            cell=cell,
        )
        return job.run(plan, stoppable)
