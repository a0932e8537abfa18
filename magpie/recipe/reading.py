"""Reads the files that people write: YAML, JSON lines and lines of text. Errors name the file and the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from magpie.errors import RecipeError


def read_texts(path: Path) -> Any:
    """Read a file of texts: YAML, or one JSON value a line, or one text a line. Raises RecipeError."""
    if path.suffix in {".yaml", ".yml"}:
        return read_yaml(path)
    if path.suffix not in {".jsonl", ".txt"}:
        raise RecipeError(f"{path} must end in .yaml, .jsonl or .txt; rename it")
    texts: list[Any] = []
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if line.strip():
            try:
                texts.append(json.loads(line) if path.suffix == ".jsonl" else line.strip())
            except ValueError as error:
                raise RecipeError(f"line {number} of {path} is not JSON; mend that line") from error
    return texts


def read_yaml(path: Path) -> Any:
    """Read a YAML file. Raises RecipeError with the line, also for a key that is written twice."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}; check the path and its rights") from error
    return parse_yaml(data, str(path))


def parse_yaml(data: bytes, origin: str) -> Any:
    """What YAML text holds; `origin` is what an error calls it. Raises RecipeError as `read_yaml` does."""
    try:
        return yaml.load(_decoded(data, origin), _UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise RecipeError(f"{origin} is not valid YAML: {place}{error.problem}; mend that line") from error
    except yaml.YAMLError as error:
        raise RecipeError(
            f"{origin} is not YAML text: {' '.join(str(error).split())}; save it as UTF-8"
        ) from error


def _read(path: Path) -> str:
    try:
        return _decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}; check the path and its rights") from error


def _decoded(data: bytes, origin: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{origin} is not UTF-8 text; save it as UTF-8") from error


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that is written twice. PyYAML would silently take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"`{key.value}` is written twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)
