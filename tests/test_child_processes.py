"""Every Python that is started as a child finds its modules where Python does, and never in the current folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SAFE = {"-P", "-I"}


def unsafe_starts(source: str) -> Iterator[int]:
    """The lines of lists and calls that begin with this Python and are not told to leave the current folder out."""
    for node in ast.walk(ast.parse(source)):
        parts = node.elts if isinstance(node, ast.List | ast.Tuple) else getattr(node, "args", [])
        if not isinstance(parts, list):
            continue
        for at, part in enumerate(parts):
            # `-P` is an option of Python: it must stand before the module, the script or the code.
            following = parts[at + 1] if at + 1 < len(parts) else None
            is_named = at and _is_option(parts[at - 1])  # as in `uv pip install --python PYTHON`
            if _is_python(part) and not is_named and following is not None and not _is_safe(following):
                yield node.lineno


def _is_python(node: ast.expr) -> bool:
    return ast.unparse(node) in {"sys.executable", "PYTHON", "str(PYTHON)"}


def _is_option(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and str(node.value).startswith("--")


def _is_safe(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value in SAFE


def test_every_python_that_is_started_leaves_the_current_folder_alone() -> None:
    paths = [path for room in ("magpie", "benchmarks", "scripts") for path in (ROOT / room).rglob("*.py")]
    assert len(paths) > 100
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted(paths)
        for line in unsafe_starts(path.read_text(encoding="utf-8"))
    ]
    assert not found, f"put -P or -I behind sys.executable: {', '.join(found)}"


def test_the_scan_sees_what_it_is_for() -> None:
    assert list(unsafe_starts("import sys\nrun([sys.executable, '-m', 'x'])")) == [2]
    assert list(unsafe_starts("import sys\nrun(sys.executable, '-m', 'x')")) == [2]
    assert list(unsafe_starts("import sys\nrun([sys.executable, '-P', '-m', 'x'])")) == []
