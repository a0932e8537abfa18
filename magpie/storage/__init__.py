"""Where the files of a run lie. No other module of magpie touches a path of a run."""

from __future__ import annotations

import re
from pathlib import Path

from magpie.storage.base import Holder, Storage, StrangeFileError
from magpie.storage.local import LocalStorage
from magpie.storage.memory import MemoryStorage

__all__ = ["Holder", "LocalStorage", "MemoryStorage", "Storage", "StrangeFileError", "open_storage"]


# A path leaves one slash of an address's two.
_ADDRESS = re.compile(r"(s3a?|gs|az|abfss):/+(.+)", re.IGNORECASE)


def open_storage(place: str | Path) -> Storage:
    """The storage that a person names with --out: a folder on a disk, or a bucket such as s3://bucket/run."""
    address = _ADDRESS.fullmatch(str(place))
    if address is None:
        return LocalStorage(place)
    from magpie.storage.objects import ObjectStorage

    return ObjectStorage(f"{address[1].lower()}://{address[2]}")
