"""A look at a folder of folders, in which runs may lie."""

from __future__ import annotations

from pathlib import Path


def folders_below(place: str) -> list[str]:
    """The folders in a folder, by name; hidden ones, links and those that cannot be read are passed over."""
    try:
        inside = sorted(Path(place).iterdir())
    except OSError:
        return []
    return [
        str(path)
        for path in inside
        if not path.name.startswith(".") and not path.is_symlink() and path.is_dir()
    ]
