"""A build that is only planned: what it would do, what it would lack, and what it would take over."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from magpie.plan.commits import adopt_commits
from magpie.plan.fingerprints import bind
from magpie.plan.foresee import Foreseen, foresee
from magpie.plan.missing import Looked, look_for
from magpie.plan.phases import Plan
from magpie.plan.planning import make_plan
from magpie.plan.tools import BuildTools
from magpie.plan.until import first_rows_of
from magpie.recipe import Recipe
from magpie.runs.change import Change, change_of, refuse_what_cannot_change
from magpie.runs.earlier import earlier_runs
from magpie.runs.record import ingredients_of, recorded_recipe
from magpie.runs.reuse import alike
from magpie.runs.run import STEPS, Run, is_run
from magpie.runs.standing import Source, source_of
from magpie.steps import Method
from magpie.storage import open_storage


@dataclass(frozen=True, slots=True)
class Taken:
    """A step of the build, and how many of its shards would be taken over from another run: 0 where it differs."""

    step: str
    shards: int


@dataclass(frozen=True, slots=True)
class DryRun:
    """What `magpie build` would do. `taken` has an entry for each step where another run is to be reused.

    `foreseen` has one for each step where there are rows to take over, in the folder or in another run; `change` is how
    the build differs from what is in the folder.
    """

    plan: Plan
    folder: Path
    looked: Looked = field(default_factory=Looked)
    stop_after: str | None = None
    reuse: Path | None = None
    taken: tuple[Taken, ...] = ()
    foreseen: tuple[Foreseen, ...] = ()
    change: Change | None = None
    sources: tuple[Source, ...] = ()


def dry_run(
    recipe: Recipe,
    folder: Path,
    *,
    stop_after: str | None = None,
    reuse: Path | None = None,
    method: Method | None = None,
) -> DryRun:
    """Plan a build into `folder`; no weights are loaded, and nothing is written.

    With `reuse`, tokenizers are read, for they decide what is alike. Raises what a build raises before it begins:
    RecipeError, FilterError, and of the run to reuse RunError.
    """
    storage, tools = open_storage(folder), BuildTools()
    recipe = first_rows_of(recipe, recorded_recipe(storage) if storage.names(STEPS) else None)
    plan = make_plan(recipe, method)
    run = Run(storage, recipe, plan.steps)
    if stop_after is not None:
        run.step(stop_after)
    source = None if reuse is None else Run.open(reuse, method)
    looked = look_for(plan, tools)
    if looked.missing or (source is None and not (is_run(run.storage) and run.has_shards)):
        return DryRun(plan, folder, looked, stop_after, reuse)
    taken = _taken(run, source, tools, method) if source is not None else ()
    refuse_what_cannot_change(run, changes=True)
    there = recorded_recipe(run.storage) or (None if source is None else recorded_recipe(source.storage))
    adopted = make_plan(adopt_commits(recipe, there), method)
    bound = bind(adopted, tools)
    run = Run(run.storage, adopted.recipe, adopted.steps)
    ingredients = ingredients_of(run.recipe, bound.ingredients)
    change = change_of(run, ingredients, changes=True)
    others = [*earlier_runs(run, method), *([] if source is None else [source])]
    if run.has_shards:
        others.insert(0, Run.open(run.storage, method))
    sources = [found for other in others if (found := source_of(run, other, ingredients)) is not None]
    foreseen = foresee(run, bound, sources) if sources else ()
    return DryRun(plan, folder, looked, stop_after, reuse, taken, foreseen, change, tuple(sources))


def _taken(run: Run, source: Run, tools: BuildTools, method: Method | None) -> tuple[Taken, ...]:
    plan = make_plan(adopt_commits(run.recipe, recorded_recipe(source.storage)), method)
    there = Run(run.storage, plan.recipe, plan.steps)
    ingredients = ingredients_of(plan.recipe, bind(plan, tools).ingredients)
    shards = {
        mine.name: sum(source.has_shard(theirs, shard) for shard in range(run.shards))
        for mine, theirs in alike(there, source, ingredients)
    }
    return tuple(Taken(run_step.name, shards.get(run_step.name, 0)) for run_step in run.steps)
