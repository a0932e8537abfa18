"""How a file on a local disk is read: only plain files, and again when the disk fails for a moment.

A read that fails says nothing about the bytes: on a network disk most such errors pass. So it is tried again, and then
it is an error of the disk. Only bytes that were read, and are wrong, make a file damaged.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from magpie.errors import StorageError
from magpie.storage.base import StrangeFileError

Result = TypeVar("Result")

WAITS = (0.1, 0.3, 1.0, 2.0)
"""Seconds to wait before each further try."""

_NO_RIGHT = {errno.EACCES, errno.EPERM}

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def persistently(path: Path, read: Callable[[], Result]) -> Result:
    """What `read` gives, tried again while the disk fails. Raises FileNotFoundError, StrangeFileError, StorageError.

    An OSError without a number is none of the disk: pyarrow raises those for bytes that are wrong.
    """
    for wait in (*WAITS, None):
        try:
            return read()
        except (FileNotFoundError, StrangeFileError):
            raise
        except NotADirectoryError as error:
            raise FileNotFoundError(errno.ENOENT, "is not there", str(path)) from error
        except OSError as error:
            if error.errno is None:
                raise
            if error.errno == errno.ELOOP:
                raise StrangeFileError("a link that leads back to itself") from error
            if wait is None:
                raise StorageError(f"cannot read {shown(path)}: {_what_to_do(error)}") from error
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def read_file(path: Path) -> bytes:
    """All bytes of a plain file. Never waits for a pipe. Raises StrangeFileError for what is no plain file."""
    refuse_strange(path.stat())  # a socket does not open, and of a folder Python makes no file
    # A pipe opened in the usual way would wait for a writer, which may never come.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        return file.read()


def refuse_strange(found: os.stat_result) -> None:
    """Raise StrangeFileError, with what it is, unless it is a plain file."""
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "no plain file")
        raise StrangeFileError(kind)


def shown(path: Path | str) -> str:
    """A path as it can be printed: bytes in it that are not UTF-8 are written as \\xNN."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def _what_to_do(error: OSError) -> str:
    # The system's own word: Arrow says the file's name once more.
    what = os.strerror(error.errno or 0)
    if error.errno in _NO_RIGHT:
        return f"{what}; ask its owner for the right to read it, or run this as that user"
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return f"{what}; raise the limit (ulimit -n), then run the same command again: nothing is lost"
    if error.errno == errno.ENOMEM:
        return f"{what}; free some memory, then run the same command again: nothing is lost"
    return f"{what}; check the disk, then run the same command again: nothing is lost"
