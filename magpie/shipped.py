"""The recipes, filters, templates and JSON schemas that travel with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parent
Kind = Literal[
    "recipes",
    "recipes/train",
    "filters",
    "templates/chat",
    "templates/judge",
    "templates/topics",
    "templates/baseline",
    "templates/models",
    "templates/licences",
    "templates/self_instruct",
    "templates/card",
    "templates/report",
    "schemas",
]


def folder(kind: Kind) -> Path:
    """The folder that holds the shipped files of one kind, in a wheel or in a checkout."""
    installed = _PACKAGE / "_shipped" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind


def names(kind: Kind) -> list[str]:
    """The names of the shipped files of one kind, without their endings, sorted."""
    return sorted(path.stem for path in folder(kind).iterdir() if path.suffix in {".yaml", ".jinja", ".json"})


def text(kind: Kind, name: str) -> str:
    """What the shipped file of this name, its ending included, holds."""
    return (folder(kind) / name).read_text(encoding="utf-8")


def find(kind: Kind, name: str, *, ending: str = ".yaml") -> Path | None:
    """The file called `name`: a path that exists as it is, else a shipped file; None when there is neither."""
    try:
        if Path(name).is_file():
            return Path(name)
        # A path is looked for where it points, and a name among what ships: no name leads out of that folder.
        shipped = folder(kind) / f"{name}{ending}"
        return shipped if shipped.parent == folder(kind) and shipped.is_file() else None
    except (OSError, ValueError):  # such as a name that is longer than names may be
        return None
