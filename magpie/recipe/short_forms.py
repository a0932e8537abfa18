"""Replaces the short forms that a recipe may be written in by the long ones.

Short forms are roles that point at other roles, texts without an id, texts in files, and datasets with relative paths.
A change here needs the same change in `schema.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magpie.errors import RecipeError
from magpie.recipe.catalogue import write_out_catalogue
from magpie.recipe.filters import load_filter
from magpie.recipe.questions import with_prompts, written_questions
from magpie.recipe.reading import read_texts

_LONGEST_ID = 40  # characters of a text that may be its own id
_DATASETS = (("decontaminate", "files"), ("dedup", "against"), ("known", "datasets"))
_FILES = (("bootstrap", "seeds"), ("instances", "examples"), ("steer", "documents"))


def write_out(recipe: Mapping[Any, Any], origin: str, folder: Path | None = None) -> dict[Any, Any]:
    """The recipe without short forms. Files that `steer` names are read from `folder`, by default the working one.

    `origin` is what an error calls the recipe. Raises RecipeError.
    """
    written = dict(recipe)
    if isinstance(written.get("models"), dict):
        written["models"] = write_out_models(written["models"], origin)
    if isinstance(written.get("steer"), dict):
        written["steer"] = write_out_steer(written["steer"], origin, folder or Path())
    if isinstance(written.get("tag"), dict) and written["tag"].get("questions") is not None:
        questions = _questions(written["tag"]["questions"], f"{origin}: `tag.questions`", folder or Path())
        written["tag"] = {**written["tag"], "questions": questions}
    if folder is not None:
        written = write_out_datasets(written, folder)
    if isinstance(written.get("filter"), str):
        written["filter"] = load_filter(written["filter"], origin=origin).model_dump(mode="json")
    elif isinstance(written.get("filter"), list):
        written["filter"] = {"rules": written["filter"]}
    return written


def write_out_models(models: dict[Any, Any], origin: str) -> dict[str, Any]:
    """Replace `role: other-role` by that role's model, and `role: name` by `{model: name}`."""
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
    """Replace the prompts, and the values of each variable, by lists of `{id, text}`. Files are read."""
    written = dict(steer)
    if written.get("catalogue") is not None:
        try:
            written = write_out_catalogue(written, folder)
        except RecipeError as error:
            raise RecipeError(f"{origin}: `steer.catalogue`: {error}") from error
    if "prompts" in written:
        written["prompts"] = _texts(written["prompts"], f"{origin}: `steer.prompts`", folder)
    if isinstance(written.get("variables"), dict):
        written["variables"] = {
            str(name): _texts(values, f"{origin}: `steer.variables.{name}`", folder)
            for name, values in written["variables"].items()
        }
    return written


def write_out_datasets(recipe: dict[Any, Any], folder: Path) -> dict[Any, Any]:
    """Replace the names of datasets that are in `folder`, and not in the working directory, by absolute paths.

    A run stores the recipe, and must find them when it is resumed from another directory.
    """
    written = dict(recipe)
    for section, key in _DATASETS:
        part = recipe.get(section)
        if isinstance(part, dict) and isinstance(part.get(key), str | list | dict):
            names = part[key] if isinstance(part[key], list) else [part[key]]
            written[section] = {**part, key: [_absolute(name, folder) for name in names]}
    for section, key in _FILES:
        part = recipe.get(section)
        if isinstance(part, dict) and key in part:
            # `steer` has been written out before.
            written[section] = {**written[section], key: _absolute(part[key], folder)}
    if isinstance(recipe.get("steps"), list):
        written["steps"] = [_with_absolute_file(step, folder) for step in recipe["steps"]]
    return written


def _with_absolute_file(step: Any, folder: Path) -> Any:
    """A step of the user's own, with the whole path of its file, where it names one that is in `folder`."""
    use = step.get("use") if isinstance(step, dict) else None
    if not isinstance(use, str) or not use.rpartition(":")[0].endswith(".py"):
        return step
    path, _, name = use.rpartition(":")
    return {**step, "use": f"{_absolute(path, folder)}:{name}"}


def _absolute(name: Any, folder: Path) -> Any:
    if isinstance(name, dict):
        return {**name, "path": _absolute(name["path"], folder)} if "path" in name else name
    if not isinstance(name, str) or not name or _is_there(Path(name)):
        return name
    if _is_there(folder / name):
        return str((folder / name).resolve())
    path, colon, split = name.rpartition(":")
    if path and not _is_there(Path(path)) and _is_there(folder / path):
        return f"{(folder / path).resolve()}{colon}{split}"
    return name


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or that no file can have
        return False


def _questions(written: Any, place: str, folder: Path) -> Any:
    """Replace the name of a file of questions by the questions, and prompts in files by their texts."""
    try:
        if isinstance(written, str):
            return written_questions(folder / written)
        return with_prompts(written, folder) if isinstance(written, dict) else written
    except RecipeError as error:
        raise RecipeError(f"{place}: {error}") from error


def _texts(written: Any, place: str, folder: Path) -> Any:
    """Replace `[text, {text}]`, `{id: text}` or `{file: name}` by a list of `{id, text}`.

    Anything else is returned as it is, for the validation to refuse.
    """
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
    entries = [_entry(text) for text in written]
    return [
        {"id": _id(entry["text"], number), **entry}
        if isinstance(entry, dict) and isinstance(entry.get("text"), str)
        else entry
        for number, entry in enumerate(entries, start=1)
    ]


def _entry(written: Any) -> Any:
    """Replace a text or a number by `{text}`."""
    if isinstance(written, str | int | float) and not isinstance(written, bool):
        return {"text": str(written)}
    return written


def _id(text: str, number: int) -> str:
    """The id of a text that has none: the text itself if it is short, else its number in the list."""
    name = re.sub(r"[^\w.+#-]+", "-", text.lower()).strip("-.")
    return name if name and len(text) <= _LONGEST_ID else str(number)
