"""What is wrong with a recipe or a filter, in one line: the setting by its dotted path, and the nearest right key."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from difflib import get_close_matches
from textwrap import shorten
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from magpie.errors import RecipeError

P = TypeVar("P", bound=BaseModel)

NAME = r"^[a-z0-9][a-z0-9._-]*$"  # a name is also a folder and part of every row id
COUNTRY = r"^[A-Z]{2}$"


def validate(part: type[P], raw: Any, origin: str) -> P:
    """Make a `part` of loaded YAML. Raises RecipeError, which names everything that is wrong in one line."""
    if not isinstance(raw, dict):
        raise RecipeError(f"{origin} holds no settings; it must be a YAML mapping such as `rows: 100`")
    try:
        return part.model_validate(raw)
    except ValidationError as error:
        raise recipe_error(part, error, origin) from None


def recipe_error(part: type[BaseModel], error: ValidationError, origin: str) -> RecipeError:
    """What Pydantic found wrong with a `part`, in one line that names each setting by its dotted path."""
    problems = error.errors()
    inner = [problem for problem in reversed(problems) if not _has_inner(problem, problems)]
    # Roles that share a model have the same mistake: name it once, at the role that holds the settings.
    distinct = {
        problem["loc"][2:] if problem["loc"][:1] == ("models",) else problem["loc"]: problem
        for problem in inner
    }
    clauses = [_explain(part, problem) for problem in reversed(distinct.values())]
    return RecipeError(f"{origin}: " + "; ".join(clauses))


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that `name` is most likely mistyped for; None where none is like it."""
    return next(iter(get_close_matches(name, list(names), n=1, cutoff=0.5)), None)


def suggestion(key: str, keys: Iterable[str], what: str = "the settings") -> str:
    """The end of an error about an unknown key: the nearest right one, or all there are."""
    keys = list(keys)
    close = nearest(key, keys)
    return f"; did you mean `{close}`?" if close else f"; {what} there are: {', '.join(keys)}"


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
        return f"`{where}` is not a setting{suggestion(str(problem['loc'][-1]), keys)}"
    if problem["type"] == "missing":
        return f"`{where}` is missing; add it"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if problem["type"] in _MUST_BE:
        message = f"must be {_MUST_BE[problem['type']]}"
        if problem["type"] == "string_type" and isinstance(problem["input"], bool):
            message = (
                "must be text, and YAML takes no, off, y and the like for true or false: write it in quotes"
            )
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
