"""Reading what a person wrote: YAML in, a Recipe or a Filter out, and errors that name the path and the right key."""

from __future__ import annotations

import types
import typing
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from magpie import shipped
from magpie.errors import RecipeError
from magpie.recipe import EngineKind, Filter, Recipe

P = TypeVar("P", bound=BaseModel)


def load_recipe(
    source: str | Path,
    *,
    overrides: dict[str, Any] | None = None,
    rows: int | None = None,
    seed: int | None = None,
    engine: EngineKind | None = None,
) -> Recipe:
    """The recipe in file `source`, or the shipped recipe of that name.

    `overrides` maps dotted paths to values (`{"instruct.max_tokens": 256}`). `engine` replaces the engine of every
    model. Raises RecipeError, naming the path and the nearest right key.
    """
    path = shipped.find("recipes", str(source))
    if path is None:
        known = ", ".join(shipped.names("recipes"))
        raise RecipeError(f"no recipe {str(source)!r}; give a YAML file or one of: {known}")
    written = read_yaml(path)
    recipe = parse_recipe(written, origin=str(source))
    given = {"rows": rows, "seed": seed, "engine": engine}
    changes = {key: value for key, value in given.items() if value is not None}
    changes |= overrides or {}
    if not changes:
        return recipe
    raw = recipe.model_dump(mode="json")
    for role, value in written["models"].items():
        if isinstance(value, str) and value in raw["models"] and not _touches(changes, f"models.{role}"):
            raw["models"][role] = value  # still follows the role it points at, when that one is changed
    for dotted, value in changes.items():
        _set(raw, dotted, value)
    if engine is not None:
        for model in raw["models"].values():
            if isinstance(model, dict):
                model["engine"] = None
    return parse_recipe(raw, origin=str(source))


def parse_recipe(raw: Any, *, origin: str = "recipe") -> Recipe:
    """A Recipe from what YAML gave, with its short forms written out."""
    if isinstance(raw, dict):
        raw = dict(raw)
        if isinstance(raw.get("models"), dict):
            raw["models"] = _write_out_models(raw["models"], origin)
        if isinstance(raw.get("filter"), str):
            raw["filter"] = load_filter(raw["filter"]).model_dump(mode="json")
    return validate(Recipe, raw, origin)


def load_filter(source: str | Path) -> Filter:
    """The filter in file `source`, or the shipped filter of that name. Raises RecipeError."""
    path = shipped.find("filters", str(source))
    if path is None:
        known = ", ".join(shipped.names("filters"))
        raise RecipeError(f"no filter {str(source)!r}; give a YAML file or one of: {known}")
    raw = read_yaml(path)
    if isinstance(raw, list):
        raw = {"rules": raw}
    if isinstance(raw, dict):
        raw = {"name": path.stem, **raw}
    return validate(Filter, raw, str(source))


def read_yaml(path: Path) -> Any:
    """What the YAML file holds. Raises RecipeError with the line."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(
            f"{path} is not valid YAML: {' '.join(str(error).split())}; mend that line"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read {path}: {error}") from error


def validate(part: type[P], raw: Any, origin: str) -> P:
    """`raw` as a `part`. Raises RecipeError with one clause for each thing that is wrong."""
    if not isinstance(raw, dict):
        raise RecipeError(f"{origin} holds no settings; it must be a YAML mapping such as `rows: 100`")
    try:
        return part.model_validate(raw)
    except ValidationError as error:
        wrong = [_explain(part, problem) for problem in error.errors()]
        raise RecipeError(f"{origin}: " + "; ".join(wrong)) from None


def parse_value(text: str) -> Any:
    """The value of a `--set a.b=value`: read as YAML, so that 3, true, null and [a, b] mean what they look like."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _write_out_models(models: dict[Any, Any], origin: str) -> dict[str, Any]:
    """`role: other-role` becomes that role's model, `role: name` becomes `{model: name}`."""
    written: dict[str, Any] = {}
    for role in models:
        value, seen = models[role], [role]
        while isinstance(value, str) and value in models:
            if value in seen:
                raise RecipeError(f"{origin}: `models.{role}` points at itself; give one of {seen} a model")
            seen.append(value)
            value = models[value]
        written[str(role)] = {"model": value} if isinstance(value, str) else value
    return written


def _set(raw: Any, dotted: str, value: Any) -> None:
    """Put `value` at `dotted` in the dumped recipe; an optional section that is off is switched on by it."""
    *path, last = dotted.split(".")
    here = raw
    for depth, key in enumerate([*path, last]):
        place = ".".join([*path, last][:depth])
        if isinstance(here, list):
            if not key.isdigit() or int(key) >= len(here):
                raise RecipeError(
                    f"--set {dotted}: `{place}` has {len(here)} entries; use a number below that"
                )
            key = int(key)  # type: ignore[assignment]
        elif not isinstance(here, dict):
            raise RecipeError(f"--set {dotted}: `{place}` is a value, it has nothing below it")
        elif key not in here and here and depth < len(path) + 1 and not _is_free(place):
            raise RecipeError(
                f"--set {dotted}: no `{key}` in {f'`{place}`' if place else 'a recipe'}{_nearest(key, here)}"
            )
        if depth == len(path):
            here[key] = value
            return
        if isinstance(here, dict) and here.get(key) is None:
            here[key] = {}
        here = here[key]


def _touches(changes: dict[str, Any], place: str) -> bool:
    return any(dotted == place or dotted.startswith(f"{place}.") for dotted in changes)


def _is_free(place: str) -> bool:
    """Whether the keys at this path are the user's own."""
    return place.endswith((".chat_template_kwargs", "quotas.counts"))


def _explain(part: type[BaseModel], problem: Any) -> str:
    where = ".".join(str(step) for step in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys_at(part, problem["loc"][:-1])
        return f"`{where}` is not a setting{_nearest(str(problem['loc'][-1]), known)}"
    if problem["type"] == "missing":
        return f"`{where}` is missing; add it"
    message = problem["msg"].removeprefix("Value error, ")
    if not where:
        return str(message)
    return f"`{where}`: {message[:1].lower()}{message[1:]}, not {problem['input']!r}"


def _keys_at(part: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    here: Any = part
    for key in path:
        if isinstance(key, str) and _is_part(here):
            here = _part_inside(here.model_fields[key].annotation)
    return list(here.model_fields) if _is_part(here) else []


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
