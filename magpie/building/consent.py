"""Asked before a run is changed in its place: what would stand, what would be made again, and at what cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from magpie.errors import RecipeChangedError
from magpie.plan import BoundPlan
from magpie.plan.foresee import foresee
from magpie.report.foreseen import print_foreseen, print_seconds
from magpie.runs.change import change_of
from magpie.runs.earlier import earlier_runs
from magpie.runs.record import ingredients_of
from magpie.runs.run import Run
from magpie.runs.standing import source_of
from magpie.steps import Method

if TYPE_CHECKING:
    from rich.console import Console


def ask_consent(
    run: Run,
    bound: BoundPlan,
    method: Method | None,
    *,
    agreed: bool,
    ask: Callable[[str], bool] | None,
    console: Console | None,
) -> None:
    """List what a change of `run` costs, and ask, unless it was `agreed` to before. The run is not touched.

    Raises RecipeChangedError where the answer is no, or the change is none that can be made in place.
    """
    ingredients = ingredients_of(run.recipe, bound.ingredients)
    change = change_of(run, ingredients, changes=True)
    if change is None:
        return
    if console is not None:
        there = Run.open(run.storage, method)
        found = (source_of(run, other, ingredients) for other in [there, *earlier_runs(run, method)])
        sources = [source for source in found if source is not None]
        foreseen = foresee(run, bound, sources)
        print_foreseen(foreseen, f"{run.storage.location} is to change: {change}", console)
        print_seconds(foreseen, bound.plan, there, console)
    if change.needs_consent and not agreed and (ask is None or not ask("Make this again in its place?")):
        raise RecipeChangedError(
            f"{run.storage.location} is left as it was; build into another folder with --out, or put back: {change}"
        )
