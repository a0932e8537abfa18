"""Where the files of a run lie. No other module of magpie touches a path of a run."""

from __future__ import annotations

from pathlib import Path

from magpie.storage.base import Holder, Storage, StrangeFileError
from magpie.storage.local import LocalStorage
from magpie.storage.memory import MemoryStorage

__all__ = ["Holder", "LocalStorage", "MemoryStorage", "Storage", "StrangeFileError", "open_storage"]


def open_storage(place: str | Path) -> Storage:
    """The storage that a person names with --out: today, a folder on a local disk."""
    return LocalStorage(place)
