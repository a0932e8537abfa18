"""What a run records of how it is made: its recipe and what its fingerprints are made of; and what may not change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from magpie.errors import RecipeError, RunError
from magpie.recipe import Recipe
from magpie.recipe.base import that_shapes_rows
from magpie.recipe.loading import parse_recipe
from magpie.runs.run import FINGERPRINTS, LOG, PROGRESS, RECIPE, Run
from magpie.runs.sealing import (
    REUSED,
    ingredients_in,
    is_named,
    read_recipe,
    recorded,
    recovered_record,
    with_seal_key,
    with_seal_line,
)
from magpie.storage import Storage
from magpie.storage.sealed import FORMAT

_SHOWN_DIFFERENCES = 12

Ingredients = dict[str, Any]
"""All that decides what the shards of a run hold: its shape under "run", then each step under its name."""


def refuse_other_things(storage: Storage) -> None:
    """Raise RunError when the place holds something and no run."""
    if (
        storage.exists(RECIPE)
        or recovered_record(storage) is not None
        or recorded_ingredients(storage) is not None
    ):
        return  # a run, whose recipe may be lost
    other = storage.unrelated(frozenset({LOG, PROGRESS}))
    if other is not None:
        raise RunError(f"{storage.location} holds other things ({other}); choose an empty folder with --out")


def recorded_recipe(storage: Storage) -> dict[str, Any] | None:
    """The recipe that a run recorded, as YAML gives it; None where there is none, or it cannot be read."""
    try:
        recipe, _ = read_recipe(storage, RECIPE)
    except (OSError, RecipeError):
        return None
    return recipe if isinstance(recipe, dict) and isinstance(recipe.get("models"), dict) else None


def recorded_ingredients(storage: Storage) -> Ingredients | None:
    """What a run recorded of how it is made; None where there is nothing that can be read."""
    return ingredients_in(storage, FINGERPRINTS)


def ingredients_of(recipe: Recipe, steps: tuple[dict[str, Any], ...]) -> Ingredients:
    """What decides the shards of a run of `recipe`, as JSON gives it back; `steps` has an entry for each step."""
    shape = {"format": FORMAT, "rows": recipe.rows, "shard_rows": recipe.shard_rows}
    by_name = {str(item["step"]): item for item in steps}
    return dict(json.loads(json.dumps({"run": shape, **by_name})))


def recipe_differences(run: Run) -> list[Difference]:
    """In which settings the recipe differs from that of the rows that are there; none where there are no rows.

    Before the first shard any recipe will do, so that a mistyped model can be put right. A recipe that cannot be read
    is passed over here: what the fingerprints are made of is compared as well.
    """
    recorded = recorded_recipe(run.storage)
    if recorded is None or not run.has_shards:
        return []
    return _differences(
        that_shapes_rows(Recipe, _as_of_today(recorded)), that_shapes_rows(Recipe, _dumped(run.recipe))
    )


def ingredient_differences(run: Run, ingredients: Ingredients) -> list[Difference]:
    """In which models, templates and code this build differs from that of the rows that are there."""
    recorded = recorded_ingredients(run.storage)
    if recorded is None or not run.has_shards:
        return []  # every shard carries its own fingerprint
    return _differences(recorded, ingredients)


def record(run: Run, ingredients: Ingredients) -> None:
    """Write the recipe and what the fingerprints are made of, unless that is what is there."""
    _write(run, RECIPE, with_seal_line(recipe_text(run.recipe)))
    _write(run, FINGERPRINTS, json.dumps(with_seal_key(ingredients), indent=1, sort_keys=True))
    if run.storage.exists(REUSED) or is_named(run.storage, REUSED):
        record_beside_reused(run, ingredients)


def record_beside_reused(run: Run, ingredients: Ingredients) -> None:
    """Write both once more, for a run with shards of another, whose metadata cannot give them back."""
    facts = {"recipe": run.recipe.model_dump(mode="json"), "ingredients": ingredients}
    _write(run, REUSED, json.dumps(with_seal_key(facts), indent=1, sort_keys=True))


def _write(run: Run, name: str, text: str) -> None:
    data = text.encode()
    if recorded(run.storage, name) != data:
        run.storage.replace(name, data)


def recipe_text(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def _dumped(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json")


def _as_of_today(recorded: dict[str, Any]) -> dict[str, Any]:
    """A recipe of an earlier version, with the settings that there were not yet; as it is where it cannot be read."""
    try:
        return _dumped(parse_recipe(recorded))
    except RecipeError:
        return recorded


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that differs, by its dotted path."""

    path: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"`{self.path}` was {_short(self.was)}, now {_short(self.now)}"


def listed(differences: Sequence[Difference]) -> str:
    """Differences as a person reads them, the first of many."""
    more = len(differences) - _SHOWN_DIFFERENCES
    shown = ", ".join(str(difference) for difference in differences[:_SHOWN_DIFFERENCES])
    return shown + (f" and {more} more" if more > 0 else "")


def _differences(there: Any, here: Any, path: str = "") -> list[Difference]:
    if isinstance(there, dict) and isinstance(here, dict):
        return [
            difference
            for key in dict.fromkeys([*there, *here])
            for difference in _differences(there.get(key), here.get(key), f"{path}.{key}".lstrip("."))
        ]
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        return [
            difference
            for number, (was, now) in enumerate(zip(there, here, strict=True))
            for difference in _differences(was, now, f"{path}.{number}")
        ]
    return [] if there == here else [Difference(path, there, here)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
