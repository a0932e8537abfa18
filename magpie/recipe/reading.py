"""Reads the files that people write: YAML, JSON lines and lines of text. Errors name the file and the line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from magpie.errors import RecipeError
from magpie.recipe.yaml_text import parse_yaml_text
from magpie.records.encoding import decoded
from magpie.records.opening import ending, is_records, opened_file
from magpie.records.rows import read_rows

_MOST_BYTES = 1 << 30


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
    return parse_yaml(bytes_of(path), str(path))


def parse_yaml(data: bytes, origin: str, *, is_large: bool = False) -> Any:
    """What YAML text holds; `origin` is what an error calls it. Raises RecipeError as `read_yaml` does."""
    return parse_yaml_text(decoded(data, origin), origin, is_large=is_large)


def bytes_of(path: Path) -> bytes:
    """All of a file that a person wrote. Raises RecipeError."""
    try:
        with opened_file(path) as file:
            if os.fstat(file.fileno()).st_size > _MOST_BYTES:
                raise RecipeError(f"{path} is larger than {_MOST_BYTES >> 20} MB; split it, or take a part")
            return file.read()
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}; check the path and its rights") from error
