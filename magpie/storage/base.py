"""What a run asks of the place that holds its files."""

from __future__ import annotations

import hashlib
import shutil
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from magpie.storage.temporary import temporary_folder


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a storage: `host`, `pid` ("" and 0 where not known), since when in seconds since 1970."""

    host: str
    pid: int
    since: float


class StrangeFileError(OSError):
    """What has the name of a file is none, but a folder, a pipe, a socket or a device. Its text says what it is."""


class Storage(ABC):
    """Files by name, such as "steps/01-instruct/00000.parquet": a folder, or an object store.

    What is written is durable when the call returns, and a crash leaves a file as it was or as it was to be, never
    part of it. Reading raises FileNotFoundError, StrangeFileError where something else has the name, and StorageError
    where the place fails or does not let us; whatever changes files raises StorageError, which says what to do next.
    """

    @property
    @abstractmethod
    def location(self) -> str:
        """Where it is, as a person would name it."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is anything of that name, readable or not."""

    def which(self, names: Sequence[str]) -> set[str]:
        """Those of the names at which something is, whatever it is."""
        return {name for name in names if self.exists(name)}

    @abstractmethod
    def names(self, prefix: str = "") -> list[str]:
        """The names of all files that begin with `prefix`, sorted; files not yet whole are left out.

        What is neither file nor folder is there as well, and links. What systems leave in every folder is not.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """All bytes of a file."""

    @abstractmethod
    def open(self, name: str) -> Any:
        """A file to read parts of, as pyarrow takes it."""

    @abstractmethod
    def create(self, name: str, data: bytes | bytearray) -> None:
        """Write a file that must not be there yet. Raises FileExistsError when it is."""

    @abstractmethod
    def replace(self, name: str, data: bytes | bytearray) -> None:
        """Write a file, in the place of an earlier one where there is one."""

    def supersede(self, name: str, data: bytes | bytearray, is_stale: Callable[[bytes], bool]) -> None:
        """Write a file in the place of one that `is_stale`, or where there is none.

        Raises FileExistsError where another is there: of two writers who saw the same stale file, the second must not
        undo what the first has written. On a bucket it never does; in a folder only at the very instant of the first.
        """
        try:
            if not is_stale(self.read(name)):
                raise FileExistsError(self.place(name))
        except FileNotFoundError:
            self.create(name, data)
        else:
            # No file system writes on a condition on what is there: between the look and this lies that instant.
            self.replace(name, data)

    @abstractmethod
    def stage(self, name: str, data: bytes | bytearray) -> str:
        """Write what is to be file `name`, out of sight: its name for `move`. A dead writer's is swept."""

    @abstractmethod
    def note(self, name: str, text: str) -> None:
        """Replace a small file that only informs. Not durable, and what fails is passed over."""

    @abstractmethod
    def append(self, name: str, text: str) -> None:
        """Add text to the end of a file. Not durable: for logs."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Take a file away; nothing happens when there is none."""

    @abstractmethod
    def move(self, name: str, to: str) -> None:
        """Give a file another name."""

    @abstractmethod
    def take_over(self, source: Storage, theirs: str, mine: str) -> None:
        """Have a file of another storage here as well. Without a copy, where both lie on one disk."""

    @abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """Hold the storage against other builds. Raises RunError while another holds it.

        A process that dies lets go by itself.
        """

    @abstractmethod
    def holder(self) -> Holder | None:
        """Who holds the lock now; None while nobody does."""

    @abstractmethod
    def unlink_folder(self, name: str) -> None:
        """Take away a folder's name where that is a link to a folder elsewhere, which stays as it is."""

    def tidy(self, name: str) -> None:
        """Take away a folder in which there are no files any more, where the storage has folders at all."""
        return

    @abstractmethod
    def prepare(self) -> None:
        """Make the place ready to be written to."""

    @abstractmethod
    def sweep(self) -> None:
        """Take away what dead writers left behind, and nothing of a living one."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """How many bytes fit; None where that is not known."""

    @abstractmethod
    def unrelated(self, known: frozenset[str]) -> str | None:
        """The name of something at the top that is none of `known`, None where there is nothing else."""

    def place(self, name: str) -> str:
        """Where a file lies, for messages."""
        return f"{self.location}/{name}"

    def local_path(self, name: str) -> Path:
        """A file on this machine with the contents of `name`, for libraries that take nothing else.

        Of what lies elsewhere it is a copy, made once, which is deleted when this object is.
        """
        if not hasattr(self, "_copies"):
            self._copies = temporary_folder()
            weakref.finalize(self, shutil.rmtree, self._copies, ignore_errors=True)
        # Under a name of its own: what a file there is called is no path here.
        path = self._copies / (hashlib.sha256(name.encode()).hexdigest() + PurePosixPath(name).suffix)
        if not path.exists():
            path.write_bytes(self.read(name))
        return path
