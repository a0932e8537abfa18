"""Reads the files that people write: YAML, JSON lines and lines of text. Errors name the file and the line."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from magpie.errors import RecipeError
from magpie.recipe.yaml_text import parse_yaml_text

_MOST_BYTES = 1 << 30


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
            except (ValueError, RecursionError) as error:
                raise RecipeError(f"line {number} of {path} is not JSON; mend that line") from error
    return texts


def read_yaml(path: Path) -> Any:
    """Read a YAML file. Raises RecipeError with the line, also for a key that is written twice."""
    return parse_yaml(_bytes_of(path), str(path))


def parse_yaml(data: bytes, origin: str) -> Any:
    """What YAML text holds; `origin` is what an error calls it. Raises RecipeError as `read_yaml` does."""
    return parse_yaml_text(_decoded(data, origin), origin)


def _read(path: Path) -> str:
    return _decoded(_bytes_of(path), str(path))


def _bytes_of(path: Path) -> bytes:
    try:
        # Opening a FIFO that nobody writes to would wait for ever.
        opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(opened, "rb") as file:
            facts = os.fstat(opened)
            if not stat.S_ISREG(facts.st_mode):
                raise RecipeError(f"cannot read {path}: it is no file; give a file")
            if facts.st_size > _MOST_BYTES:
                raise RecipeError(f"{path} is larger than {_MOST_BYTES >> 20} MB; split it, or take a part")
            return file.read()
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}; check the path and its rights") from error


def _decoded(data: bytes, origin: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{origin} is not UTF-8 text; save it as UTF-8") from error
