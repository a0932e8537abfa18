"""A folder on a local disk: temporary file, fsync, then the name, then fsync of the folder."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from magpie.errors import RunError, StorageError
from magpie.storage.base import Storage

_LOCK = "run.lock"

# What a file system answers that has no hard links.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class LocalStorage(Storage):
    """Files below a folder. The folders between are made when a file in them is written."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def location(self) -> str:
        return str(self.folder)

    def exists(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def names(self, prefix: str = "") -> list[str]:
        top = self.folder / prefix.rpartition("/")[0]
        paths = (path for path in top.rglob("*") if path.is_file() and not _is_temporary(path, self.folder))
        names = (path.relative_to(self.folder).as_posix() for path in paths)
        return sorted(name for name in names if name.startswith(prefix))

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def open(self, name: str) -> pa.NativeFile:
        return pa.OSFile(str(self.folder / name))

    def create(self, name: str, data: bytes | bytearray) -> None:
        path = self._ready(name)
        with storage_errors(path, passed_on=FileExistsError):
            temporary = _temporary(path)
            try:
                _write(temporary, data)
                try:
                    # A link fails where the name is taken; a rename would replace what is there.
                    os.link(temporary, path)
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    if path.exists():
                        raise FileExistsError(errno.EEXIST, "is there already", str(path)) from error
                    temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(path.parent)

    def replace(self, name: str, data: bytes | bytearray) -> None:
        with replacing(self._ready(name)) as temporary:
            temporary.write_bytes(data)

    def append(self, name: str, text: str) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(text)

    def delete(self, name: str) -> None:
        path = self.folder / name
        with storage_errors(path):
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                sync_folder(path.parent)

    def move(self, name: str, to: str) -> None:
        path = self.folder / name
        with storage_errors(path):
            path.replace(self._ready(to))
            sync_folder(path.parent)

    def take_over(self, source: Storage, theirs: str, mine: str) -> None:
        path = self._ready(mine)
        if not isinstance(source, LocalStorage):
            self.replace(mine, source.read(theirs))
            return
        with storage_errors(path):
            temporary = _temporary(path)
            try:
                # A shard is never written to once it is there, so two runs may share one file.
                os.link(source.folder / theirs, temporary)
            except OSError:  # another disk, or a file system without links
                shutil.copyfile(source.folder / theirs, temporary)
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)

    @contextmanager
    def lock(self) -> Iterator[None]:
        import fcntl

        with storage_errors(self.folder):
            file = (self.folder / _LOCK).open("a+")
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"another build is at work in {self.folder}; wait for it, or see `magpie status {self.folder}`"
                ) from None
            yield
        finally:
            file.close()

    def prepare(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise RunError(f"{self.folder} is a file; choose another folder with --out")
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    def sweep(self) -> None:
        with storage_errors(self.folder):
            for path in list(self.folder.rglob(".*.tmp")):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)

    def free_bytes(self) -> int | None:
        try:
            return shutil.disk_usage(self.folder).free
        except OSError as error:
            raise StorageError(f"cannot look at the disk of {self.folder}: {error}") from error

    def unrelated(self, known: frozenset[str]) -> str | None:
        if not self.folder.is_dir():
            return None
        names = (path.name for path in self.folder.iterdir())
        return min((n for n in names if n not in known | {_LOCK} and not n.endswith(".tmp")), default=None)

    def local_path(self, name: str) -> Path:
        return self.folder / name

    def _ready(self, name: str) -> Path:
        path = self.folder / name
        if not path.parent.is_dir():
            with storage_errors(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
        return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write a file too long to hold in memory; when the block ends well it becomes `path`.

    A crash or an error leaves the old file or the new one, never part of either. Raises StorageError.
    """
    temporary = _temporary(path)
    with storage_errors(path):
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextmanager
def storage_errors(path: Path, *, passed_on: type[OSError] | tuple[()] = ()) -> Iterator[None]:
    """Turn what the disk says into a StorageError that says what to do next; errors of one type are `passed_on`."""
    try:
        yield
    except passed_on:
        raise
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageError(
                f"no space left for {path}; free some, then run the same command again: nothing is lost"
            ) from error
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise StorageError(
                f"cannot write {path}: {error.strerror}; choose another folder with --out"
            ) from error
        raise StorageError(f"cannot write {path}: {error.strerror or error}; check the disk") from error


def sync_folder(folder: Path) -> None:
    """Make a change of names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(path: Path, data: bytes | bytearray) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _temporary(path: Path) -> Path:
    """A name beside `path` that no two writers share. `sweep` knows it by its form."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _is_temporary(path: Path, top: Path) -> bool:
    return any(part.startswith(".") and part.endswith(".tmp") for part in path.relative_to(top).parts)
