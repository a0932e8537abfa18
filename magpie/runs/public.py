"""What is said of a run to others: nothing of the machine that it was made on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from magpie.recipe import Recipe

# A reason that names another dataset, such as the one that a row repeats, ends in it.
_OF_A_PLACE = re.compile(r"(.*? of )((?:[/~.\\]|[A-Za-z]:[\\/]).*)", re.DOTALL)


def public_recipe(about: Mapping[str, Any]) -> str:
    """The recipe as YAML, without the addresses of servers, and of places on one machine their last names alone."""
    return yaml.safe_dump(public(about["recipe"]), sort_keys=False, allow_unicode=True, width=100)


def dumped(recipe: Recipe) -> dict[str, Any]:
    """A recipe as `public_recipe` takes it."""
    return {"recipe": recipe.model_dump(mode="json", exclude={"models": {"__all__": {"server"}}})}


def public(value: Any) -> Any:
    """`value` without what is of one machine: of each path, its last name is left."""
    if isinstance(value, Mapping):
        return {str(key): public(item) for key, item in value.items() if key != "server"}
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    return _last(value) if isinstance(value, str) and _is_place(value) else value


def public_name(value: Any) -> str:
    """A dataset or a model by its name; of a path on somebody's machine, its last part alone."""
    text = str(getattr(value, "path", value))
    if text.count("/") == 1 and not text.startswith(("/", ".", "~")):
        return text
    return _last(text)


def public_reason(reason: str) -> str:
    """Why a row is out; a dataset that it names by its place is named by its last name alone."""
    found = _OF_A_PLACE.fullmatch(reason)
    return reason if found is None else f"{found[1]}{_last(found[2])}"


def _last(place: str) -> str:
    # On either kind of system; only one of the two knows the path's parts.
    return PureWindowsPath(PurePosixPath(place).name).name


def _is_place(text: str) -> bool:
    if "\n" in text or len(text) > 4096:
        return False
    rooted = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
    return (rooted and len(text) > 1) or text.startswith(("~/", "./", "../", "~\\", ".\\", "..\\"))
