"""The short forms of a recipe written out: roles that point at roles, texts in files, datasets beside the recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from magpie.errors import RecipeError
from magpie.recipe.reading import read_texts

_LONGEST_ID = 40
_DATASETS = (("decontaminate", "files"), ("dedup", "against"))


def write_out_models(models: dict[Any, Any], origin: str) -> dict[str, Any]:
    """`role: other-role` becomes that role's model, `role: name` becomes `{model: name}`."""
    written: dict[str, Any] = {}
    for role, target in models.items():
        value, seen = target, [role]
        while isinstance(value, str) and value in models:
            if value in seen:
                raise RecipeError(f"{origin}: `models.{role}` points at itself; give one of {seen} a model")
            seen.append(value)
            value = models[value]
        written[str(role)] = {"model": value} if isinstance(value, str) else value
    return written


def write_out_steer(steer: dict[Any, Any], origin: str, folder: Path) -> dict[Any, Any]:
    """The steering prompts and the values of variables as lists of `{id, text}`, files read."""
    written = dict(steer)
    if "prompts" in written:
        written["prompts"] = _texts(written["prompts"], f"{origin}: `steer.prompts`", folder)
    if isinstance(written.get("variables"), dict):
        written["variables"] = {
            str(name): _texts(values, f"{origin}: `steer.variables.{name}`", folder)
            for name, values in written["variables"].items()
        }
    return written


def write_out_datasets(recipe: dict[Any, Any], folder: Path) -> dict[Any, Any]:
    """The recipe, with datasets that lie in `folder` and not in the working directory named by their whole paths.

    A run keeps the recipe written out, and finds them again from any directory.
    """
    written = dict(recipe)
    for section, key in _DATASETS:
        part = recipe.get(section)
        if isinstance(part, dict) and isinstance(part.get(key), str | list):
            named = [part[key]] if isinstance(part[key], str) else part[key]
            written[section] = {**part, key: [_dataset(name, folder) for name in named]}
    return written


def _dataset(name: Any, folder: Path) -> Any:
    if not isinstance(name, str) or not name or Path(name).exists() or not (folder / name).exists():
        return name
    return str((folder / name).resolve())


def _texts(written: Any, place: str, folder: Path) -> Any:
    """`[text, {text}]`, `{id: text}` or `{file: name}` as a list of `{id, text}`; what is none of them as it is."""
    if isinstance(written, dict) and list(written) == ["file"]:
        try:
            written = read_texts(folder / str(written["file"]))
        except RecipeError as error:
            raise RecipeError(f"{place}: {error}") from error
    if isinstance(written, dict):
        mistaken = [key for key in written if isinstance(key, bool)]
        if mistaken:
            raise RecipeError(f"{place}: YAML reads an id as {mistaken[0]}; write the id in quotes")
        pairs = [(str(id), _entry(text)) for id, text in written.items()]
        return [{"id": id, **entry} if isinstance(entry, dict) else entry for id, entry in pairs]
    if not isinstance(written, list):
        return written
    entries = [_entry(one) for one in written]
    return [
        {"id": _name(entry["text"], number), **entry}
        if isinstance(entry, dict) and isinstance(entry.get("text"), str)
        else entry
        for number, entry in enumerate(entries, start=1)
    ]


def _entry(written: Any) -> Any:
    """A text alone, or a number, as `{text}`."""
    if isinstance(written, str | int | float) and not isinstance(written, bool):
        return {"text": str(written)}
    return written


def _name(text: str, number: int) -> str:
    """The id of a text that was given none: itself where it is short, else its place in the list."""
    name = re.sub(r"[^\w.+#-]+", "-", text.lower()).strip("-.")
    return name if name and len(text) <= _LONGEST_ID else str(number)
