"""A finished or unfinished run that is to be built by another recipe in its place: what may change there, and how.

Rows keep their ids and places, so the first step may not change, nor how many rows a shard has. A run may grow, and
everything after the first step may change: what stands is taken over, and the rest is made again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pyarrow.compute as pc

from magpie.errors import RecipeChangedError
from magpie.runs.earlier import is_change_begun, put_aside
from magpie.runs.record import (
    Difference,
    Ingredients,
    ingredient_differences,
    listed,
    recipe_differences,
    record,
    record_beside_reused,
)
from magpie.runs.run import Run
from magpie.steps.base import REJECTED

_ELSEWHERE = "build into another folder with --out, or put the settings back"
_PUT_BACK = "build into another folder with --out, or put them back"
_FIXED = ("name", "method", "shard_rows")


@dataclass(frozen=True, slots=True)
class Change:
    """How a build differs from the run that it finds. `rows` are those of then and now.

    `needs_consent` says that something other than growth is asked for, to which nobody has agreed yet.
    """

    differences: tuple[Difference, ...]
    rows: tuple[int, int]
    needs_consent: bool

    @property
    def grows(self) -> bool:
        """Whether there are to be more rows."""
        return self.rows[1] > self.rows[0]

    def __str__(self) -> str:
        return listed(self.differences)


def refuse_what_cannot_change(run: Run, *, changes: bool) -> None:
    """Raise RecipeChangedError for a recipe that the run cannot be built by in its place.

    `changes` says that somebody agrees, or can be asked; without, a run may only grow. It reads the recipe alone, and
    is asked before anything is looked up.
    """
    differences = recipe_differences(run)
    if not differences:
        return
    where = run.storage.location
    rows = next((each for each in differences if each.path == "rows"), None)
    fixed = [each for each in differences if each.path.partition(".")[0] in _FIXED]
    others = [each for each in differences if not _is_growth(each)]
    if fixed or (others and not changes):
        again = "" if fixed else "--yes makes again here what depends on them and --dry-run shows what, or "
        raise RecipeChangedError(
            f"{where} holds the run of another recipe: {listed(differences)}; {again}{_ELSEWHERE}"
        )
    if rows is not None and isinstance(rows.was, int) and run.recipe.rows < rows.was:
        raise RecipeChangedError(
            f"{where} has {rows.was} rows, and a run can only grow: {rows}; give --rows {rows.was} or more, "
            "or build into another folder with --out"
        )


def _is_growth(difference: Difference) -> bool:
    """Whether the setting concerns rows only that are not there yet: see `Refill`."""
    return difference.path == "rows" or difference.path.startswith("steer.refills")


def change_of(run: Run, ingredients: Ingredients, *, changes: bool) -> Change | None:
    """How this build differs from the run that is there; None where it does not, or nothing is made yet.

    Raises RecipeChangedError for what cannot change in its place, as above.
    """
    recipe, made = recipe_differences(run), ingredient_differences(run, ingredients)
    if not made:
        return None
    where = run.storage.location
    first = run.steps[0].name
    if any(each.path.partition(".")[0] == first or each.path == "run.format" for each in made):
        if recipe:
            raise RecipeChangedError(
                f"{where} holds the run of another recipe: {listed(recipe)}; {_ELSEWHERE}"
            )
        raise RecipeChangedError(
            f"{where} was made by other models, templates or code: {listed(made)}; {_PUT_BACK}"
        )
    rows = next((each for each in made if each.path == "run.rows"), None)
    before = rows.was if rows is not None and isinstance(rows.was, int) else run.recipe.rows
    if before > run.recipe.rows:
        raise RecipeChangedError(
            f"{where} has {before} rows, and a run can only grow; give --rows {before} or more, "
            "or build into another folder with --out"
        )
    # How a step looks at all rows may depend on how many there are, such as the search of near repeats: where the run
    # does not grow, such a step differs by something else, as another file of evaluation questions.
    grows = run.recipe.rows > before
    global_steps = {run_step.name for run_step in run.steps if run_step.is_global and grows}
    others = [each for each in recipe if not _is_growth(each)] or [
        each for each in made if each is not rows and each.path.partition(".")[0] not in global_steps
    ]
    # What was agreed to and not recorded whole is not asked again.
    begun = is_change_begun(run.storage) and not recipe
    if others and not changes and not begun:
        raise RecipeChangedError(
            f"{where} was made by other models, templates or code: {listed(others)}; "
            f"--yes makes again here what depends on them and --dry-run shows what, or {_PUT_BACK}"
        )
    return Change(tuple(recipe or made), (before, run.recipe.rows), bool(others) and not begun)


def begin_change(run: Run, ingredients: Ingredients, *, keep: bool) -> str:
    """Put the run aside as it is, and record the new one in its place; where the earlier one lies now."""
    place = put_aside(run.storage, keep=keep)
    # Shards of both are there from now on: what they say of how they were made is not asked any more.
    record_beside_reused(run, ingredients)
    record(run, ingredients)
    return place


def rows_out_anew(run: Run, earlier: Run) -> dict[str, int]:
    """Why rows are out now that were kept by the earlier run, and how many; empty where that was not finished."""
    if earlier.first_unfinished is not None:
        return {}
    reasons: Counter[str] = Counter()
    for shard in range(earlier.shards):
        before = earlier.rows(shard, (), check=False)[REJECTED.name]
        now = run.rows(shard, (), check=False)[REJECTED.name].slice(0, len(before))
        reasons.update(now.filter(pc.and_(pc.is_null(before), pc.is_valid(now))).to_pylist())
    return dict(reasons.most_common())
