"""Seed tasks, in the form of the original's file: an instruction, examples of it, and whether it is classification."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from magpie import shipped
from magpie.errors import RecipeError
from magpie.records.rows import read_rows


@dataclass(frozen=True, slots=True)
class Instance:
    """One example of a task. `input` is empty where the instruction says all."""

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task that a person wrote."""

    id: str
    instruction: str
    instances: tuple[Instance, ...]
    is_classification: bool


def seed_tasks(file: str | None) -> tuple[Task, ...]:
    """The tasks of a file in the original's form, or those that ship. Raises RecipeError."""
    return read_tasks(_shipped("seeds") if file is None else Path(file))


def example_tasks(file: str | None) -> tuple[Task, ...]:
    """The tasks with several instances that show a model how to write them. Raises RecipeError."""
    return read_tasks(_shipped("instances") if file is None else Path(file))


def read_tasks(path: Path) -> tuple[Task, ...]:
    """The tasks of a file: JSON lines, or whatever else holds such objects. Raises RecipeError, which names the row."""
    found = tuple(_task(row.value, f"{path}:{number}") for number, row in enumerate(read_rows(path), start=1))
    if not found:
        raise RecipeError(
            f"{path} holds no task; give a file with an object a line, as docs/self-instruct.md shows"
        )
    twice = sorted({task.id for task in found if sum(other.id == task.id for other in found) > 1})
    if twice:
        raise RecipeError(f"{path} has two tasks with the id {twice[0]!r}; give each an id of its own")
    return found


def digest_of(tasks: Iterable[Task]) -> str:
    """Equal for equal tasks in equal order."""
    spelled = json.dumps([asdict(task) for task in tasks], ensure_ascii=False)
    return hashlib.blake2b(spelled.encode(), digest_size=16).hexdigest()


def _shipped(name: str) -> Path:
    return shipped.folder("templates/self_instruct") / f"{name}.jsonl"


def _task(raw: Any, place: str) -> Task:
    if not isinstance(raw, dict):
        raise RecipeError(f"{place} is no object; give a task a line, as docs/self-instruct.md shows")
    instruction, instances = raw.get("instruction"), raw.get("instances") or []
    if not isinstance(instruction, str) or not instruction.strip():
        raise RecipeError(f"{place} has no `instruction`; give it one")
    if not isinstance(instances, list) or not all(map(_is_instance, instances)):
        raise RecipeError(
            f"{place}: `instances` must be a list of objects with `input` and `output`, both texts"
        )
    return Task(
        id=str(raw.get("id") or place.rpartition(":")[2]),
        instruction=instruction.strip(),
        instances=tuple(
            Instance((one.get("input") or "").strip(), one["output"].strip()) for one in instances
        ),
        is_classification=raw.get("is_classification") is True,
    )


def _is_instance(raw: Any) -> bool:
    return (
        isinstance(raw, dict)
        and isinstance(raw.get("output"), str)
        and isinstance(raw.get("input", ""), str | None)
    )
