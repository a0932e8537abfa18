"""The cache of models that are made on this machine."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from magpie.errors import ModelError

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The cache's folder: $MAGPIE_CACHE, else `magpie` in $XDG_CACHE_HOME, else ~/.cache/magpie."""
    if own := os.environ.get("MAGPIE_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "magpie"


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by `make` if it does not exist: completely or not at all, and by one process at a time."""
    from filelock import FileLock

    if folder.is_dir():
        return folder
    # Made under another name and renamed: a folder of the final name is always complete.
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            # Another process may have made it while this one waited for the lock.
            if folder.is_dir():
                return folder
            if unfinished.exists():
                shutil.rmtree(unfinished)
            unfinished.mkdir()
            _log.info("making %s, once", folder.name)
            make(unfinished)
            # On disk before the rename is: after a power failure the new name must not hold empty files.
            for path in (path for path in unfinished.rglob("*") if path.is_file()):
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            unfinished.rename(folder)
    except OSError as error:
        raise ModelError(
            f"cannot write the model to {folder.parent} ({error.strerror or error}); "
            "make room there, or set MAGPIE_CACHE to another folder"
        ) from error
    return folder
