"""A folder on a local disk: temporary file, fsync, then the name, then fsync of the folder."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pyarrow as pa

from magpie.errors import RunError, StorageError
from magpie.storage.base import Holder, Storage, StrangeFileError
from magpie.storage.lock import LEASE, LOCK, holder, locked
from magpie.storage.reading import persistently, read_file, refuse_strange, shown
from magpie.storage.temporary import is_temporary, sweep, temporary
from magpie.storage.writing import make_folders, storage_errors, swapping, sync_folder

# What a file system answers that has no hard links.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}

# What systems leave in folders unasked: macOS, Windows, NFS for a file that is deleted while it is open.
_NOBODYS = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|\.nfs[0-9a-f]+", re.DOTALL)


class LocalStorage(Storage):
    """Files below a folder. The folders between are made when a file in them is written."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def location(self) -> str:
        return str(self.folder)

    def place(self, name: str) -> str:
        return shown(f"{self.folder}/{name}")

    def exists(self, name: str) -> bool:
        path = self.folder / name
        try:
            persistently(path, path.lstat)
        except (FileNotFoundError, StrangeFileError):
            return False
        return True

    def names(self, prefix: str = "") -> list[str]:
        top = self.folder / prefix.rpartition("/")[0]
        names = (path.relative_to(self.folder).as_posix() for path in _files(top))
        return sorted(name for name in names if name.startswith(prefix))

    def read(self, name: str) -> bytes:
        path = self.folder / name
        return persistently(path, lambda: read_file(path))

    def open(self, name: str) -> pa.NativeFile:
        path = self.folder / name

        def opened() -> pa.NativeFile:
            refuse_strange(path.stat())
            return pa.OSFile(os.fsencode(path))

        return persistently(path, opened)

    def create(self, name: str, data: bytes | bytearray) -> None:
        path = self._ready(name)
        with storage_errors(path, passed_on=FileExistsError):
            new = temporary(path)
            try:
                _write(new, data)
                try:
                    # A link fails where the name is taken; a rename would replace what is there.
                    os.link(new, path)
                except FileExistsError:
                    # NFS may have made the link and lost its answer: then it was made again, and met itself.
                    if new.stat().st_nlink != 2:
                        raise
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    if path.exists():
                        raise FileExistsError(errno.EEXIST, "is there already", str(path)) from error
                    new.replace(path)
            finally:
                new.unlink(missing_ok=True)
            sync_folder(path.parent)

    def replace(self, name: str, data: bytes | bytearray) -> None:
        with swapping(self._ready(name)) as new:
            new.write_bytes(data)

    def stage(self, name: str, data: bytes | bytearray) -> str:
        path = self._ready(name)
        new = temporary(path)
        with storage_errors(path):
            try:
                _write(new, data)
            except BaseException:
                new.unlink(missing_ok=True)
                raise
        return new.relative_to(self.folder).as_posix()

    def note(self, name: str, text: str) -> None:
        new = temporary(self.folder / name)
        with suppress(OSError):
            try:
                new.write_text(text, encoding="utf-8", errors="backslashreplace")
                new.replace(self.folder / name)
            finally:
                new.unlink(missing_ok=True)

    def append(self, name: str, text: str) -> None:
        # O_NONBLOCK: a pipe of this name must not hold the build up.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(self.folder / name, flags, 0o666)
        with os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace") as file:
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
            new = temporary(path)
            try:
                # A shard is never written to once it is there, so two runs may share one file.
                os.link(source.folder / theirs, new)
            except OSError:  # another disk, or a file system without links
                shutil.copyfile(source.folder / theirs, new)
                with new.open("rb+") as file:
                    os.fsync(file.fileno())
            new.replace(path)
            sync_folder(path.parent)

    def lock(self) -> AbstractContextManager[None]:
        return locked(self.folder)

    def holder(self) -> Holder | None:
        return holder(self.folder)

    def unlink_folder(self, name: str) -> None:
        path = self.folder / name
        with storage_errors(path):
            if path.is_symlink():
                path.unlink()
                sync_folder(path.parent)

    def tidy(self, name: str) -> None:
        top = self.folder / name
        for folder in [*sorted(top.rglob("*"), reverse=True), top]:
            if folder.is_dir() and not folder.is_symlink():
                with suppress(OSError):  # not empty, or gone already
                    folder.rmdir()

    def prepare(self) -> None:
        with storage_errors(self.folder):
            is_in_the_way = self.folder.exists() and not self.folder.is_dir()
        if is_in_the_way:
            raise RunError(f"{shown(self.folder)} is a file; choose another folder with --out")
        make_folders(self.folder)

    def sweep(self) -> None:
        sweep(self.folder, below=True, ownerless=True)

    def free_bytes(self) -> int | None:
        try:
            return shutil.disk_usage(self.folder).free
        except OSError as error:
            raise StorageError(f"cannot look at the disk of {shown(self.folder)}: {error}") from error

    def unrelated(self, known: frozenset[str]) -> str | None:
        try:
            names = persistently(self.folder, lambda: [path.name for path in self.folder.iterdir()])
        except FileNotFoundError:
            return None
        nobodys = {LOCK, LEASE}
        return min(
            (
                n
                for n in names
                if n not in known | nobodys and not n.endswith(".tmp") and not _NOBODYS.fullmatch(n)
            ),
            default=None,
        )

    def local_path(self, name: str) -> Path:
        return self.folder / name

    def _ready(self, name: str) -> Path:
        path = self.folder / name
        if not path.parent.is_dir():
            make_folders(path.parent)
        return path


def _files(top: Path) -> Iterator[Path]:
    """What lies below a folder that is not itself a folder: files, links and stranger things."""
    try:
        entries = persistently(top, lambda: list(os.scandir(top)))
    except (FileNotFoundError, StrangeFileError):
        return
    for entry in entries:
        if is_temporary(entry.name) or _NOBODYS.fullmatch(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        else:
            yield Path(entry.path)


def _write(path: Path, data: bytes | bytearray) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
