"""A bucket of an object store: S3, Google Cloud Storage or Azure, by the obstore library.

A file is one object, which appears whole or not at all. Creating is a conditional write: of two writers of one name the
store lets exactly one through, and a worker that was thought dead can never replace what another has committed. Stores
that ignore the condition are refused at the start.
"""

from __future__ import annotations

import io
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import pyarrow as pa

from magpie.errors import RunError, StorageError
from magpie.storage.base import Holder, Storage
from magpie.storage.connection import ObjectFile, connect, first_line, unreachable, version_of
from magpie.storage.lease import Lease, is_over

T = TypeVar("T")

SCHEMES = ("s3://", "s3a://", "gs://", "az://", "abfss://")
"""What addresses of object stores begin with."""

_PROBE, _STAGED = ".probe", ".staged-"
_INNER_LASTS = 3600.0
"""Seconds after which a probe, or what was staged and never moved, has been left behind."""

_READ_AT_ONCE = 1 << 20

_LOG_EVERY = 5.0
"""Seconds between two writes of a log: an object cannot be added to, only written anew."""


class ObjectStorage(Storage):
    """Objects below an address such as s3://bucket/run. Credentials come from the environment, as the SDKs read them.

    It can be sent to another process, which connects for itself.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._connected: Any = None
        self._logs: dict[str, _Log] = {}
        self._lock = threading.Lock()
        self._lease: Lease | None = None
        self._newest: dict[str, bytes] = {}  # of each file that only informs: its latest text
        self._notes = ThreadPoolExecutor(1, thread_name_prefix="notes")

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectStorage, (self._url,)

    @property
    def location(self) -> str:
        return self._url

    def exists(self, name: str) -> bool:
        try:
            self._read(lambda store: store.head(name))
        except FileNotFoundError:
            return False
        return True

    def which(self, names: Sequence[str]) -> set[str]:
        # One request for all below a folder, where there would be one for each name.
        prefixes = {"".join(name.partition("/")[:2]) for name in names}
        return set(names).intersection(each for prefix in prefixes for each in self.names(prefix))

    def names(self, prefix: str = "") -> list[str]:
        # Stores list below whole folders only.
        folder = prefix.rpartition("/")[0]
        found = self._all_names(folder or None)
        return sorted(name for name in found if name.startswith(prefix) and not _is_inner(name))

    def read(self, name: str) -> bytes:
        if name in self._newest:
            self._wait_for_notes()
        return self._read(lambda store: bytes(store.get(name).bytes()))

    def open(self, name: str) -> pa.NativeFile:
        import obstore

        opened = self._read(lambda store: obstore.open_reader(store, name, buffer_size=_READ_AT_ONCE))
        return pa.PythonFile(ObjectFile(opened), mode="r")

    def create(self, name: str, data: bytes | bytearray) -> None:
        self._write_if(name, data, mode="create")

    def replace(self, name: str, data: bytes | bytearray) -> None:
        self._write(name, data, mode="overwrite")

    def supersede(self, name: str, data: bytes | bytearray, is_stale: Callable[[bytes], bool]) -> None:
        try:
            there, version = self._read(lambda store: _with_version(store.get(name)))
        except FileNotFoundError:
            self.create(name, data)
            return
        if not is_stale(there):
            raise FileExistsError(self.place(name))
        self._write_if(name, data, mode=version)

    def stage(self, name: str, data: bytes | bytearray) -> str:
        staged = f"{_STAGED}{uuid.uuid4().hex[:8]}/{name}"
        self._write(staged, data, mode="overwrite")
        return staged

    def note(self, name: str, text: str) -> None:
        self._later(name, text.encode("utf-8", errors="backslashreplace"))

    def append(self, name: str, text: str) -> None:
        with self._lock:
            if name not in self._logs:
                self._logs[name] = _Log(self._text(name))
            log = self._logs[name]
            log.text += text
            if time.monotonic() - log.written_at >= _LOG_EVERY:
                self._write_log(name, log)

    def delete(self, name: str) -> None:
        with self._writing(name), suppress(FileNotFoundError):
            self._store.delete(name)

    def move(self, name: str, to: str) -> None:
        with self._writing(name):
            self._store.rename(name, to)

    def take_over(self, source: Storage, theirs: str, mine: str) -> None:
        self.replace(mine, source.read(theirs))

    @contextmanager
    def lock(self) -> Iterator[None]:
        with Lease(self._store, "run.lock", self.location) as self._lease:
            try:
                yield
            finally:
                self._flush_logs()

    def holder(self) -> Holder | None:
        try:
            facts = json.loads(self.read("run.lock"))
            if not is_over(facts):
                return Holder(str(facts["host"]), int(facts["pid"]), float(facts.get("since") or 0))
        except (
            FileNotFoundError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            OverflowError,
            RecursionError,
        ):
            pass  # nobody's, or written by something else
        return None

    def unlink_folder(self, name: str) -> None:
        """There are no links."""

    def prepare(self) -> None:
        """Refuse a store on which two writers could both win."""
        name = f"{_PROBE}-{os.getpid()}-{time.time_ns()}"
        try:
            self.create(name, b"one")
            try:
                self.create(name, b"two")
            except FileExistsError:
                return
            raise StorageError(
                f"{self._url} lets two writers create the same object (it ignores If-None-Match), so rows could be "
                "written twice; use a store with conditional writes, or a local folder"
            )
        finally:
            with suppress(StorageError):
                self.delete(name)

    def sweep(self) -> None:
        """An object that was not wholly sent is not there: only probes are left behind, and what was never moved.

        The young may be of a build that begins at this moment: were its probe gone when it is written for the second
        time, that would look like a store that lets two writers through.
        """
        items = self._read(lambda store: [item for batch in store.list() for item in batch])
        for item in items:
            name, age = item["path"], time.time() - item["last_modified"].timestamp()
            if _is_inner(name) and age > _INNER_LASTS:
                self.delete(name)

    def free_bytes(self) -> int | None:
        return None

    def unrelated(self, known: frozenset[str]) -> str | None:
        names = self._read(lambda store: store.list_with_delimiter())
        tops = {item["path"] for item in names["objects"]} | {
            path.rstrip("/") for path in names["common_prefixes"]
        }
        # The folder itself has no name here: SeaweedFS lists it, and so do buckets in which a console has made it.
        nobodys = known | {"run.lock", ""}
        return min((name for name in tops if name not in nobodys and not _is_inner(name)), default=None)

    def _all_names(self, folder: str | None) -> list[str]:
        paths = self._read(lambda store: [item["path"] for batch in store.list(folder) for item in batch])
        return [path for path in paths if path]

    @property
    def _store(self) -> Any:
        if self._connected is None:
            self._connected = connect(self._url)
        return self._connected

    def _read(self, ask: Callable[[Any], T]) -> T:
        try:
            return ask(self._store)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise unreachable(self._url, error) from error

    def _read_or_none(self, name: str) -> bytes | None:
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

    def _write_if(self, name: str, data: bytes | bytearray, *, mode: Any) -> None:
        """Write on a condition. Raises FileExistsError where something else is there."""
        try:
            self._write(name, data, mode=mode)
        except FileExistsError:
            # Where the store's answer is lost the request is made again, and meets what it has just made itself.
            if self._read_or_none(name) != data:
                raise

    def _write(self, name: str, data: bytes | bytearray, *, mode: Any) -> None:
        with self._writing(name):
            # In one request: only that can be conditional. A shard is some megabytes.
            self._store.put(name, io.BytesIO(data), mode=mode, use_multipart=False)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        if self._lease is not None and not self._lease.is_held():
            raise RunError(
                f"{self.location} was out of reach for too long, and another build has taken its lock; see "
                f"`magpie status {self.location}`"
            )
        try:
            yield
        except (AlreadyExistsError, PreconditionError) as error:
            raise FileExistsError(self.place(name)) from error
        except StorageError:
            raise
        except Exception as error:
            raise StorageError(
                f"cannot write {self.place(name)}: {first_line(error)}; see that the bucket is there and the "
                "credentials in the environment may write to it, then run the same command again"
            ) from error

    def _text(self, name: str) -> str:
        try:
            return self.read(name).decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def _write_log(self, name: str, log: _Log) -> None:
        log.written_at = time.monotonic()
        self._later(name, log.text.encode())

    def _later(self, name: str, data: bytes) -> None:
        """Have a file written that only informs, by a thread: a slow bucket must not keep the event loop waiting."""

        def write() -> None:
            with suppress(StorageError, RunError):
                if self._newest.get(name) is data:  # else a newer text waits behind this one
                    self.replace(name, data)

        self._newest[name] = data
        with suppress(RuntimeError):  # Python is ending
            self._notes.submit(write)

    def _flush_logs(self) -> None:
        with self._lock:
            for name, log in self._logs.items():
                self._write_log(name, log)
        self._wait_for_notes()

    def _wait_for_notes(self) -> None:
        with suppress(RuntimeError):  # Python is ending
            self._notes.submit(lambda: None).result()  # one thread: what was asked before is done by then


class _Log:
    """A log's whole text, and when it was last written."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.written_at = 0.0


def _with_version(answer: Any) -> tuple[bytes, dict[str, str]]:
    return bytes(answer.bytes()), version_of(answer.meta)


def _is_inner(name: str) -> bool:
    return name.startswith((_PROBE, _STAGED))
