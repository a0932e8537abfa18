"""Real English sentences that every machine has: those in the documentation of its Python packages."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_SENTENCE = re.compile(r"\n\s*\n|(?<=[.!?])\s")


def sentences(count: int) -> list[str]:
    """Different first sentences of docstrings, from installed packages in an order drawn by seed."""
    files = sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py"))
    random.Random(0).shuffle(files)
    found: dict[str, None] = {}
    for path in files:
        found |= dict.fromkeys(_first_sentences(path))
        if len(found) >= count:
            break
    return list(found)[:count]


def _first_sentences(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = " ".join(_SENTENCE.split((ast.get_docstring(node) or "").strip())[0].split())
            if 25 <= len(first) <= 300 and first.count(" ") >= 4:
                yield first
