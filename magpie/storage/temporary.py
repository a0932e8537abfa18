"""Files on their way to their names. Each says in its own name whose it is, and goes when that process is dead.

So whoever comes next takes away what a killed writer left behind, and never what a living one is at work on.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

from magpie.storage.owner import Owner

_OWNED = re.compile(r"\..*\.([0-9a-f]{8})-(\d{1,10})-(\d{1,20})-[0-9a-f]{8}\.tmp", re.DOTALL)
# What earlier versions wrote: it has no owner.
_OWNERLESS = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)

# A writer on another machine, which cannot be asked, changes its file more often than this. In seconds.
_SILENT_FOR = 3600.0


def temporary(path: Path) -> Path:
    """A name beside `path` that no two writers share, and that says which process it belongs to."""
    me = Owner.me()
    name = path.name[:40]  # the whole must not grow longer than a name may be
    return path.with_name(f".{name}.{me.machine}-{me.pid}-{me.began}-{uuid.uuid4().hex[:8]}.tmp")


def temporary_folder() -> Path:
    """A new folder of this process's own among the temporary files; what dead processes left there is swept."""
    place = Path(tempfile.gettempdir())
    sweep(place)
    folder = temporary(place / "magpie")
    folder.mkdir(mode=0o700)
    return folder


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is on its way to another name."""
    return name.startswith(".") and name.endswith(".tmp")


def sweep(folder: Path, *, below: bool = False, ownerless: bool = False) -> None:
    """Delete what dead writers left in `folder`, and `below` it; `ownerless` files of earlier versions as well.

    A link is deleted and not followed. What cannot be deleted stays: it is nobody's, and in nobody's way.
    """
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            if _is_left_behind(Path(place, name), ownerless=ownerless):
                _delete(Path(place, name))
        folders[:] = [name for name in folders if below and not is_temporary(name)]


def _is_left_behind(path: Path, *, ownerless: bool) -> bool:
    match = _OWNED.fullmatch(path.name)
    if match is None:
        return ownerless and _OWNERLESS.fullmatch(path.name) is not None
    is_dead = Owner(match[1], int(match[2]), int(match[3])).is_dead
    if is_dead is None:
        with suppress(OSError):
            return time.time() - path.lstat().st_mtime > _SILENT_FOR
        return False
    return is_dead


def _delete(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
