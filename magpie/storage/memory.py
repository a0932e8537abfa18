"""A storage that is gone with its process: for samples that nobody wants to keep."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from magpie.errors import StorageError
from magpie.storage.base import Holder, Storage


class MemoryStorage(Storage):
    """Files in a dictionary."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._creating = threading.Lock()

    @property
    def location(self) -> str:
        return "memory"

    def exists(self, name: str) -> bool:
        return name in self._files

    def names(self, prefix: str = "") -> list[str]:
        names = list(self._files)
        return sorted(name for name in names if name.startswith(prefix) and not name.endswith(".tmp"))

    def read(self, name: str) -> bytes:
        try:
            return self._files[name]
        except KeyError:
            raise FileNotFoundError(name) from None

    def open(self, name: str) -> pa.BufferReader:
        return pa.BufferReader(self.read(name))

    def create(self, name: str, data: bytes | bytearray) -> None:
        with self._creating:  # of two threads that find no file, one has to be first
            if name in self._files:
                raise FileExistsError(name)
            self._files[name] = bytes(data)

    def replace(self, name: str, data: bytes | bytearray) -> None:
        self._files[name] = bytes(data)

    def stage(self, name: str, data: bytes | bytearray) -> str:
        self._files[f".{name}.tmp"] = bytes(data)
        return f".{name}.tmp"

    def note(self, name: str, text: str) -> None:
        self._files[name] = text.encode()

    def append(self, name: str, text: str) -> None:
        self._files[name] = self._files.get(name, b"") + text.encode()

    def delete(self, name: str) -> None:
        self._files.pop(name, None)

    def move(self, name: str, to: str) -> None:
        if name not in self._files:
            raise StorageError(f"cannot move {self.place(name)}: there is no such file; please report this")
        self._files[to] = self._files.pop(name)

    def take_over(self, source: Storage, theirs: str, mine: str) -> None:
        self._files[mine] = source.read(theirs)

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield  # nobody else can see it

    def holder(self) -> Holder | None:
        return None

    def unlink_folder(self, name: str) -> None:
        """There are no links."""

    def prepare(self) -> None:
        """There is nothing to make."""

    def sweep(self) -> None:
        """No writer leaves anything behind."""

    def free_bytes(self) -> int | None:
        return None

    def unrelated(self, known: frozenset[str]) -> str | None:
        tops = {name.partition("/")[0] for name in list(self._files)}
        return min(tops - known, default=None)
