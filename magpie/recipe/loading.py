"""Loads recipes and filters from YAML. Errors name the setting by its dotted path, and the nearest right key."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from magpie import shipped
from magpie.errors import RecipeError
from magpie.names import fitting_name
from magpie.recipe.filter import Filter
from magpie.recipe.pii import COUNTRY
from magpie.recipe.reading import read_yaml
from magpie.recipe.recipe import NAME, Recipe
from magpie.recipe.short_forms import write_out_datasets, write_out_models, write_out_steer

P = TypeVar("P", bound=BaseModel)


def load_recipe(
    source: str | Path | Recipe,
    *,
    overrides: dict[str, Any] | None = None,
    rows: int | None = None,
    seed: int | None = None,
    engine: str | None = None,
) -> Recipe:
    """Load a recipe from a YAML file, or the shipped recipe of that name, and change some settings.

    `source` may also be a Recipe. `overrides` maps dotted paths to values: `{"instruct.max_tokens": 256}`. `engine`
    replaces the engine of every model. Raises RecipeError, which names the setting and the nearest right key.
    """
    recipe, written_models = (source, {}) if isinstance(source, Recipe) else _read_recipe(source)
    arguments = {"rows": rows, "seed": seed, "engine": engine}
    options = {key: value for key, value in arguments.items() if value is not None}
    changes = options | (overrides or {})
    if not changes:
        return recipe
    raw = recipe.model_dump(mode="json")
    for role, value in written_models.items():
        if isinstance(value, str) and value in raw["models"] and not _is_changed(f"models.{role}", changes):
            raw["models"][role] = value  # a role that points at another one follows its changes
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


def _read_recipe(source: str | Path) -> tuple[Recipe, dict[str, Any]]:
    """The recipe, and its `models` as the file has them: there a role may still point at another."""
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
    if isinstance(raw, dict):
        raw = dict(raw)
        if isinstance(raw.get("models"), dict):
            raw["models"] = write_out_models(raw["models"], origin)
        if isinstance(raw.get("steer"), dict):
            raw["steer"] = write_out_steer(raw["steer"], origin, folder or Path())
        if folder is not None:
            raw = write_out_datasets(raw, folder)
        if isinstance(raw.get("filter"), str):
            raw["filter"] = load_filter(raw["filter"], origin=origin).model_dump(mode="json")
        elif isinstance(raw.get("filter"), list):
            raw["filter"] = {"rules": raw["filter"]}
    return validate(Recipe, raw, origin)


def load_filter(source: str | Path, *, origin: str | None = None) -> Filter:
    """Load a filter from a YAML file, or the shipped filter of that name. Of a recipe file, load its `filter`.

    `origin` is the recipe that names the filter, if one does; then `source` must not be a recipe. Raises RecipeError.
    """
    path = shipped.find("filters", str(source))
    if path is None:
        names = ", ".join(shipped.names("filters"))
        named_by = f"{origin}: " if origin else ""
        raise RecipeError(f"{named_by}no filter {str(source)!r}; give a YAML file or one of: {names}")
    raw, where = read_yaml(path), str(source)
    if origin is None and isinstance(raw, dict) and "models" in raw:
        raw, where = raw.get("filter"), f"the filter of {source}"
        if raw is None:
            raise RecipeError(
                f"{source} is a recipe without a filter; give a filter file, or add `filter` to it"
            )
        if isinstance(raw, str):
            return load_filter(raw, origin=str(source))
    if isinstance(raw, list):
        raw = {"rules": raw}
    if isinstance(raw, dict):
        raw = {"name": fitting_name(path.stem, otherwise="filter"), **raw}
    return validate(Filter, raw, where)


def validate(part: type[P], raw: Any, origin: str) -> P:
    """Make a `part` of loaded YAML. Raises RecipeError, which names everything that is wrong in one line."""
    if not isinstance(raw, dict):
        raise RecipeError(f"{origin} holds no settings; it must be a YAML mapping such as `rows: 100`")
    try:
        return part.model_validate(raw)
    except ValidationError as error:
        problems = error.errors()
        inner = [problem for problem in reversed(problems) if not _has_inner(problem, problems)]
        # Roles that share a model have the same mistake: name it once, at the role that holds the settings.
        distinct = {
            problem["loc"][2:] if problem["loc"][:1] == ("models",) else problem["loc"]: problem
            for problem in inner
        }
        clauses = [_explain(part, problem) for problem in reversed(distinct.values())]
        raise RecipeError(f"{origin}: " + "; ".join(clauses)) from None


def parse_value(text: str) -> Any:
    """Read the value of `--set a.b=value` as YAML, so that `3` is a number and `[a, b]` a list."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
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
            raise RecipeError(f"--set {dotted}: no `{name}` in {holder}{_suggestion(name, here)}")
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
    return place.endswith((".chat_template_kwargs", "quotas.counts", "steer.variables"))


_MUST_BE = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "tuple_type": "a list",
    "too_short": "a list of at least one entry",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
}
_MUST_MATCH = {
    NAME: "lower-case letters, digits, `.`, `_` and `-`, a letter or digit first",
    COUNTRY: "two capital letters, such as US",
}


def _explain(part: type[BaseModel], problem: Any) -> str:
    where = ".".join(str(key) for key in problem["loc"])
    if problem["type"] == "extra_forbidden":
        keys = _keys_at(part, problem["loc"][:-1])
        return f"`{where}` is not a setting{_suggestion(str(problem['loc'][-1]), keys)}"
    if problem["type"] == "missing":
        return f"`{where}` is missing; add it"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if problem["type"] in _MUST_BE:
        message = f"must be {_MUST_BE[problem['type']]}"
    elif problem["type"] == "string_pattern_mismatch":
        pattern = problem["ctx"]["pattern"]
        message = f"must be {_MUST_MATCH.get(pattern, f'text that matches {pattern}')}"
    if message.startswith("must be"):
        value = "null" if problem["input"] is None else repr(problem["input"])
        message += f", not {shorten(value, 80, placeholder=' ...')}"
    return f"`{where}`: {message}" if where else message


def _has_inner(problem: Any, problems: list[Any]) -> bool:
    """Whether there is a problem further inside: Pydantic says of a list with one wrong entry that it is too short."""
    depth = len(problem["loc"])
    return any(len(other["loc"]) > depth and other["loc"][:depth] == problem["loc"] for other in problems)


def _keys_at(part: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """The settings of the part at `path`."""
    here: Any = part
    to_skip = 0
    for key in path:
        if to_skip:  # the name of a role, or a number in a list, is in the path and no setting
            to_skip -= 1
            continue
        annotation = here.model_fields[key].annotation
        to_skip = _nesting(annotation)
        here = _part_inside(annotation)
    return list(here.model_fields)


def _nesting(annotation: Any) -> int:
    """How many lists and mappings are around the innermost type: 2 for `dict[str, tuple[Part, ...]]`."""
    if typing.get_origin(annotation) not in {tuple, dict}:
        return 0
    return 1 + max(map(_nesting, typing.get_args(annotation)))


def _part_inside(annotation: Any) -> Any:
    """The part in `Part | None`, `tuple[Part, ...]` or `dict[str, Part]`."""
    if typing.get_origin(annotation) in {typing.Union, types.UnionType, tuple, dict}:
        return next((arg for arg in map(_part_inside, typing.get_args(annotation)) if _is_part(arg)), None)
    return annotation


def _is_part(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, BaseModel)


def _suggestion(key: str, keys: Iterable[str]) -> str:
    """The end of an error about an unknown key: the nearest right one, or all there are."""
    keys = list(keys)
    close = get_close_matches(key, keys, n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else f"; the settings there are: {', '.join(keys)}"
