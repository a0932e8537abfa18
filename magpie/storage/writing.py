"""How a file on a local disk is replaced: a new one beside it, made durable, then given its name."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from magpie.errors import FullDiskError, RunError, StorageError
from magpie.storage.reading import shown
from magpie.storage.temporary import sweep, temporary

# What a file system answers that cannot make a folder durable by itself, such as some network disks.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_HEAD = 1 << 20  # bytes of a file in which a mark is looked for
_IN_THE_WAY = {
    errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP, errno.ENXIO, errno.ENODEV,
}  # fmt: skip


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write a file too long to hold in memory; when the block ends well it becomes `path`.

    A crash or an error leaves the old file or the new one, never part of either. What an earlier, dead writer left
    beside it is deleted. Raises StorageError.
    """
    sweep(path.parent)
    with swapping(path) as new:
        yield new


@contextmanager
def swapping(path: Path) -> Iterator[Path]:
    """`replacing` where nothing is to be swept."""
    new = temporary(path)
    with storage_errors(path):
        try:
            yield new
            with new.open("rb+") as file:
                os.fsync(file.fileno())
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def refuse_another(path: Path, mark: bytes) -> None:
    """Raise RunError where something is there that is not made here: a file without the `mark` that ours begin with."""
    with storage_errors(path):
        if not path.exists():
            return
        if path.is_file():
            with path.open("rb") as file:
                if mark in file.read(_HEAD):
                    return
    raise RunError(
        f"{shown(path)} is there already, and magpie did not make it; name another file with --out, or move it away"
    )


@contextmanager
def storage_errors(path: Path, *, passed_on: type[OSError] | tuple[()] = ()) -> Iterator[None]:
    """Turn what the disk says into a StorageError that says what to do next; errors of one type are `passed_on`."""
    try:
        yield
    except passed_on:
        raise
    except OSError as error:
        what, place = error.strerror or str(error), shown(path)
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise FullDiskError(
                f"no space left for {place}; free some, then run the same command again: nothing is lost"
            ) from error
        if error.errno == errno.EFBIG:
            raise StorageError(
                f"cannot write {place}: it is larger than a file may be; raise the limit (ulimit -f), "
                "then run the same command again: nothing is lost"
            ) from error
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise StorageError(f"cannot write {place}: {what}; choose another folder with --out") from error
        if error.errno in _IN_THE_WAY or (error.errno == errno.ENOENT and path.is_symlink()):
            raise StorageError(
                f"cannot write {place}: {what}; move what lies there away, then run the same command again"
            ) from error
        raise StorageError(f"cannot write {place}: {what}; check the disk") from error


def sync_folder(folder: Path) -> None:
    """Make a change of names in `folder` durable, where its file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


def make_folders(folder: Path) -> None:
    """Make a folder and those above it that are not there, each durable in the one above. Raises StorageError."""
    with storage_errors(folder):
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            if folder == folder.parent:
                break
            folder = folder.parent
        for new in reversed(missing):
            new.mkdir(exist_ok=True)
            sync_folder(new.parent)
