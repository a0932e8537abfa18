"""Reads the files that people write: YAML, JSON lines and lines of text. Errors name the file and the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from magpie.errors import RecipeError
from magpie.records.encoding import decoded
from magpie.records.opening import ending, is_records
from magpie.records.rows import read_rows


def read_texts(path: Path) -> Any:
    """Read a file of texts: YAML, one text a line, or records (JSON, CSV, Parquet). Raises RecipeError."""
    if ending(path.name) in {".yaml", ".yml"}:
        return read_yaml(path)
    if not is_records(path.name):
        raise RecipeError(f"{path} must end in .yaml, .txt, .jsonl, .json, .csv or .parquet; rename it")
    return [_text_entry(record.value) for record in read_rows(path)]


def _text_entry(value: Any) -> Any:
    """The entry of a list of texts: a table has all its columns in every row, those without a value too."""
    return (
        {key: held for key, held in value.items() if held is not None} if isinstance(value, dict) else value
    )


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
        return yaml.load(decoded(data, origin), _UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise RecipeError(f"{origin} is not valid YAML: {place}{error.problem}; mend that line") from error
    except yaml.YAMLError as error:
        raise RecipeError(
            f"{origin} is not YAML text: {' '.join(str(error).split())}; save it as UTF-8"
        ) from error


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
