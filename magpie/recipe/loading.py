"""Loads recipes and filters from YAML. Errors name the setting by its dotted path, and the nearest right key."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from magpie import shipped
from magpie.errors import RecipeError
from magpie.recipe.filters import load_filter
from magpie.recipe.problems import suggestion, validate
from magpie.recipe.reading import read_yaml
from magpie.recipe.recipe import Recipe
from magpie.recipe.short_forms import write_out
from magpie.recipe.yaml_text import parse_yaml_text

__all__ = ["load_filter", "load_recipe", "parse_recipe", "parse_value", "validate"]


def load_recipe(
    source: str | Path | Mapping[str, Any] | Recipe,
    *,
    overrides: dict[str, Any] | None = None,
    rows: int | None = None,
    seed: int | None = None,
    engine: str | None = None,
) -> Recipe:
    """Load a recipe from a YAML file, or the shipped recipe of that name, and change some settings.

    `source` may also be a Recipe, or a dict that holds what a file would. `overrides` maps dotted paths to values:
    `{"instruct.max_tokens": 256}`. `engine` replaces the engine of every model. Raises RecipeError, which names the
    setting and the nearest right key.
    """
    recipe, written_models = (source, None) if isinstance(source, Recipe) else _read_recipe(source)
    arguments = {"rows": rows, "seed": seed, "engine": engine}
    options = {key: value for key, value in arguments.items() if value is not None}
    changes = options | (overrides or {})
    if not changes:
        return recipe
    raw = recipe.model_dump(mode="json")
    for role in recipe.models:
        if written_models is None or _is_changed(f"models.{role}", changes):
            continue
        value = written_models.get(role)
        if isinstance(value, str) and value in raw["models"]:
            raw["models"][role] = value  # a role that points at another one follows its changes
        elif value is None:
            del raw["models"][role]  # so does one that the recipe does not name: its model is found anew
    if engine is not None:
        for model in raw["models"].values():
            if isinstance(model, dict):
                model["engine"] = None  # takes the recipe's engine, unless a change names this model's
    switched_on: set[str] = set()
    for dotted, value in changes.items():
        _set(raw, dotted, value, switched_on)
    flags = (
        f"--{key}" if key in options and key not in (overrides or {}) else f"--set {key}" for key in changes
    )
    # The recipe was valid before the changes, so an error is named by the options that made them.
    return parse_recipe(raw, origin=", ".join(flags))


def _read_recipe(source: str | Path | Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """The recipe, and its `models` as the file has them: there a role may still point at another."""
    if isinstance(source, Mapping):
        written = dict(source)
        return parse_recipe(written), written["models"]
    path = shipped.find("recipes", str(source))
    if path is None:
        names = ", ".join(shipped.names("recipes"))
        raise RecipeError(f"no recipe {str(source)!r}; give a YAML file or one of: {names}")
    written = read_yaml(path)
    return parse_recipe(written, origin=str(source), folder=path.parent), written["models"]


def parse_recipe(raw: Any, *, origin: str = "recipe", folder: Path | None = None) -> Recipe:
    """Make a Recipe of loaded YAML. Short forms are replaced by the long ones. Raises RecipeError.

    `folder` is where the recipe file is. Files that `steer` names are read from there. Datasets that `decontaminate`
    and `dedup` name are looked up in the working directory first, then there. The default is the working directory.
    """
    return validate(Recipe, write_out(raw, origin, folder) if isinstance(raw, dict) else raw, origin)


def parse_value(text: str) -> Any:
    """Read the value of `--set a.b=value` as YAML, so that `3` is a number and `[a, b]` a list."""
    try:
        return parse_yaml_text(text, "--set")
    except RecipeError:
        return text


def _set(raw: Any, dotted: str, value: Any, switched_on: set[str]) -> None:
    """Put `value` at the path `dotted` of a dumped recipe. This switches on a section that is off.

    Such sections are added to `switched_on`: they do not hold all their keys yet, so an unknown key in them is left to
    be found when the whole recipe is validated.
    """
    path = dotted.split(".")
    # A new role may be added under `models`, unless its name looks like a role that is there, mistyped.
    if len(path) == 2 and path[0] == "models" and not get_close_matches(path[1], raw["models"], cutoff=0.7):
        switched_on.add("models")
    here = raw
    for depth, name in enumerate(path):
        place = ".".join(path[:depth])
        key: str | int = name
        if isinstance(here, list):
            if not name.isdecimal() or int(name) >= len(here):
                raise RecipeError(
                    f"--set {dotted}: `{place}` has {len(here)} entries; use a number below that"
                )
            key = int(name)
        elif not isinstance(here, dict):
            raise RecipeError(
                f"--set {dotted}: `{place}` is a value, with nothing below it; set `{place}` itself"
            )
        elif name not in here and here and place not in switched_on and not _has_free_keys(place):
            holder = f"`{place}`" if place else "a recipe"
            raise RecipeError(f"--set {dotted}: no `{name}` in {holder}{suggestion(name, here)}")
        if depth == len(path) - 1:
            here[key] = value
        else:
            if isinstance(here, dict) and here.get(key) is None:
                here[key] = {}
                switched_on.add(".".join(path[: depth + 1]))
            here = here[key]


def _is_changed(place: str, changes: dict[str, Any]) -> bool:
    """Whether a change names the setting at `place`, or one inside it."""
    return any(dotted == place or dotted.startswith(f"{place}.") for dotted in changes)


def _has_free_keys(place: str) -> bool:
    """Whether the mapping at this path takes any key."""
    return place.endswith((".chat_template_kwargs", "quotas.counts", "steer.variables", "tag.questions"))
