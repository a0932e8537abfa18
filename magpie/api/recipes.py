"""Recipes: explained, begun, and planned before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magpie.errors import RecipeError
from magpie.recipe.loading import load_recipe
from magpie.runs.opened import as_run
from magpie.runs.run import Run
from magpie.user_code import with_code

if TYPE_CHECKING:
    from magpie.plan import DryRun
    from magpie.plan.costs import Costs
    from magpie.recipe import Recipe


def recipe(
    source: Recipe | Mapping[str, Any] | str | Path, *, overrides: dict[str, Any] | None = None
) -> str:
    """A recipe as YAML with every key there is, and as comments what each means and its default.

    `source` is what `build` takes: a Recipe, a dict, a file, or the name of a recipe that ships. Raises RecipeError.
    """
    from magpie.recipe.commented import commented

    return commented(load_recipe(source, overrides=overrides))


def plan(
    source: Recipe | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    overrides: dict[str, Any] | None = None,
    stop_after: str | None = None,
    reuse: str | Path | None = None,
    allow_code: bool = False,
) -> DryRun:
    """What a build would do: its phases, what it lacks on this machine, what it would take over from run `reuse`.

    No weights are loaded, and nothing is written. The arguments are those of `build`, and it raises what that raises
    before it begins. What is missing is no error here: see `looked.missing`.
    """
    from magpie.plan import dry_run

    loaded = with_code(load_recipe(source, overrides=overrides), allowed=allow_code)
    folder = Path(out) if out is not None else Path("runs") / loaded.name
    return dry_run(loaded, folder, stop_after=stop_after, reuse=None if reuse is None else Path(reuse))


def plan_costs(
    source: Recipe | Mapping[str, Any] | str | Path,
    *,
    gpu: str | None = None,
    gpus: int | None = None,
    price: float = 0.0,
    like: Run | str | Path | None = None,
    overrides: dict[str, Any] | None = None,
    allow_code: bool = False,
) -> Costs:
    """What a build would take of `gpus` GPUs: memory, tokens, hours, dollars at `price` for a GPU hour, disk.

    `gpu` is the kind, such as "h100-80gb", by default one of it; without it, those of this machine, if they are known.
    `like` is an earlier run of the recipe, whose shares of rows and lengths are taken. Raises RecipeError and RunError.
    """
    from magpie.engines.gpus import gpus_here
    from magpie.figures.measured import measured_by
    from magpie.plan import make_plan
    from magpie.plan.costs import plan_costs as costs_of
    from magpie.sizing.cards import card_here, find_card

    card = card_here() if gpu is None else find_card(gpu)
    measured = None if like is None else measured_by(as_run(like))
    plan = make_plan(with_code(load_recipe(source, overrides=overrides), allowed=allow_code))
    here = gpus_here() if gpu is None else 0
    return costs_of(plan, card, gpus=gpus or here or 1, price=price, measured=measured)


def new(model: str, out: str | Path | None = None, *, rows: int = 1000) -> str:
    """A short recipe for a model, as YAML; written to the file `out`, if one is given, which must not be there yet.

    Raises RecipeError.
    """
    from magpie.report.starter import starter

    text = starter(model, rows=rows)
    if out is not None:
        try:
            with Path(out).open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise RecipeError(f"{out} is there already; give another file, or remove it first") from None
        except OSError as error:
            raise RecipeError(f"cannot write {out} ({error.strerror}); give another file") from error
    return text
