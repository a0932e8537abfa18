"""Reading what a person wrote: YAML in, a Recipe or a Filter out, and errors that name the path and the right key."""

from __future__ import annotations

import types
import typing
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from magpie import shipped
from magpie.errors import RecipeError
from magpie.recipe.filter import Filter
from magpie.recipe.models import EngineKind
from magpie.recipe.reading import read_yaml
from magpie.recipe.recipe import Recipe
from magpie.recipe.short_forms import write_out_datasets, write_out_models, write_out_steer

P = TypeVar("P", bound=BaseModel)


def load_recipe(
    source: str | Path | Recipe,
    *,
    overrides: dict[str, Any] | None = None,
    rows: int | None = None,
    seed: int | None = None,
    engine: EngineKind | None = None,
) -> Recipe:
    """The recipe in file `source`, the shipped recipe of that name, or a recipe as it is; with changes made.

    `overrides` maps dotted paths to values (`{"instruct.max_tokens": 256}`). `engine` replaces the engine of every
    model. Raises RecipeError, naming the path and the nearest right key.
    """
    if isinstance(source, Recipe):
        recipe, roles = source, {}
    else:
        path = shipped.find("recipes", str(source))
        if path is None:
            known = ", ".join(shipped.names("recipes"))
            raise RecipeError(f"no recipe {str(source)!r}; give a YAML file or one of: {known}")
        written = read_yaml(path)
        recipe = parse_recipe(written, origin=str(source), folder=path.parent)
        roles = written["models"]
    given = {"rows": rows, "seed": seed, "engine": engine}
    options = {key: value for key, value in given.items() if value is not None}
    changes = options | (overrides or {})
    if not changes:
        return recipe
    raw = recipe.model_dump(mode="json")
    for role, value in roles.items():
        if isinstance(value, str) and value in raw["models"] and not _touches(changes, f"models.{role}"):
            raw["models"][role] = value  # still follows the role it points at, when that one is changed
    if engine is not None:
        for model in raw["models"].values():
            if isinstance(model, dict):
                model["engine"] = None
    opened: set[str] = set()
    for dotted, value in changes.items():
        _set(raw, dotted, value, opened)
    named = (
        f"--{key}" if key in options and key not in (overrides or {}) else f"--set {key}" for key in changes
    )
    # The recipe itself is sound: what is wrong now is in the changes.
    return parse_recipe(raw, origin=", ".join(named))


def parse_recipe(raw: Any, *, origin: str = "recipe", folder: Path | None = None) -> Recipe:
    """A Recipe from what YAML gave, with its short forms written out.

    Files that `steer` names lie in `folder`, by default the working directory. Datasets that `decontaminate` and
    `dedup` name lie there where they are not in the working directory.
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
    """The filter in file `source`, or the shipped filter of that name; of a file that is a recipe, its filter.

    `origin` is the recipe that names it, if one does; it must name a filter. Raises RecipeError.
    """
    path = shipped.find("filters", str(source))
    if path is None:
        known = ", ".join(shipped.names("filters"))
        named_by = f"{origin}: " if origin else ""
        raise RecipeError(f"{named_by}no filter {str(source)!r}; give a YAML file or one of: {known}")
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
        raw = {"name": path.stem, **raw}
    return validate(Filter, raw, where)


def validate(part: type[P], raw: Any, origin: str) -> P:
    """`raw` as a `part`. Raises RecipeError with one clause for each thing that is wrong."""
    if not isinstance(raw, dict):
        raise RecipeError(f"{origin} holds no settings; it must be a YAML mapping such as `rows: 100`")
    try:
        return part.model_validate(raw)
    except ValidationError as error:
        problems = error.errors()
        inner = [problem for problem in reversed(problems) if not _has_inner(problem, problems)]
        # Two roles that are one model are wrong in the same way: the one that holds the settings is named.
        once = {
            problem["loc"][2:] if problem["loc"][:1] == ("models",) else problem["loc"]: problem
            for problem in inner
        }
        clauses = [_explain(part, problem) for problem in reversed(once.values())]
        raise RecipeError(f"{origin}: " + "; ".join(clauses)) from None


def parse_value(text: str) -> Any:
    """The value of a `--set a.b=value`: read as YAML, so that 3, true, null and [a, b] mean what they look like."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _set(raw: Any, dotted: str, value: Any, opened: set[str]) -> None:
    """Put `value` at `dotted` in the dumped recipe; an optional section that is off is switched on by it.

    Sections switched on are added to `opened`: their keys are not all there yet, and are judged with the whole. A model
    may be named for a role that there is not yet, unless it looks like one mistyped.
    """
    path = dotted.split(".")
    if len(path) == 2 and path[0] == "models" and not get_close_matches(path[1], raw["models"], cutoff=0.7):
        opened.add("models")
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
        elif name not in here and here and place not in opened and not _is_free(place):
            holder = f"`{place}`" if place else "a recipe"
            raise RecipeError(f"--set {dotted}: no `{name}` in {holder}{_nearest(name, here)}")
        if depth == len(path) - 1:
            here[key] = value
        else:
            if isinstance(here, dict) and here.get(key) is None:
                here[key] = {}
                opened.add(".".join(path[: depth + 1]))
            here = here[key]


def _touches(changes: dict[str, Any], place: str) -> bool:
    return any(dotted == place or dotted.startswith(f"{place}.") for dotted in changes)


def _is_free(place: str) -> bool:
    """Whether the keys at this path are the user's own."""
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
    "string_pattern_mismatch": "lower-case letters, digits, `.`, `_` and `-`, a letter or digit first",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
}


def _explain(part: type[BaseModel], problem: Any) -> str:
    where = ".".join(str(step) for step in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys_at(part, problem["loc"][:-1])
        return f"`{where}` is not a setting{_nearest(str(problem['loc'][-1]), known)}"
    if problem["type"] == "missing":
        return f"`{where}` is missing; add it"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if problem["type"] in _MUST_BE:
        message = f"must be {_MUST_BE[problem['type']]}"
    if message.startswith("must be"):
        written = "null" if problem["input"] is None else repr(problem["input"])
        message += f", not {shorten(written, 80, placeholder=' ...')}"
    return f"`{where}`: {message}" if where else message


def _has_inner(problem: Any, problems: list[Any]) -> bool:
    """Whether something inside it is wrong too: a list of one bad entry is also said to be too short."""
    depth = len(problem["loc"])
    return any(len(other["loc"]) > depth and other["loc"][:depth] == problem["loc"] for other in problems)


def _keys_at(part: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """The settings of the Part at `path`, where a role's name or a list's number is no setting."""
    here: Any = part
    entries = 0
    for key in path:
        if entries:
            entries -= 1
            continue
        annotation = here.model_fields[key].annotation
        entries = _nesting(annotation)
        here = _part_inside(annotation)
    return list(here.model_fields)


def _nesting(annotation: Any) -> int:
    """How many lists and mappings stand around what is inside: 2 for `dict[str, tuple[Part, ...]]`."""
    if typing.get_origin(annotation) not in {tuple, dict}:
        return 0
    return 1 + max(map(_nesting, typing.get_args(annotation)))


def _part_inside(annotation: Any) -> Any:
    """The Part in `Part | None`, `tuple[Part, ...]` or `dict[str, Part]`."""
    if typing.get_origin(annotation) in {typing.Union, types.UnionType, tuple, dict}:
        return next((arg for arg in map(_part_inside, typing.get_args(annotation)) if _is_part(arg)), None)
    return annotation


def _is_part(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, BaseModel)


def _nearest(key: str, known: Any) -> str:
    close = get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else f"; the settings there are: {', '.join(known)}"
