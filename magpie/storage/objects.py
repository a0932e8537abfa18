"""A bucket of an object store: S3, Google Cloud Storage or Azure, by the obstore library.

A file is one object, which appears whole or not at all. Creating is a conditional write: of two writers of one name the
store lets exactly one through, and a worker that was thought dead can never replace what another has committed. Stores
that ignore the condition are refused at the start.
"""

from __future__ import annotations

import io
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import pyarrow as pa

from magpie.errors import RunError, StorageError
from magpie.storage.base import Holder, Storage
from magpie.storage.lease import Lease, is_over

T = TypeVar("T")

SCHEMES = ("s3://", "s3a://", "gs://", "az://", "abfss://")
"""What addresses of object stores begin with."""

_PROBE, _STAGED = ".probe", ".staged-"
_STAGED_LASTS = 3600.0
"""Seconds after which what was staged, and never moved, has been left behind."""

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

    def names(self, prefix: str = "") -> list[str]:
        # Stores list below whole folders only.
        folder = prefix.rpartition("/")[0]
        found = self._all_names(folder or None)
        return sorted(name for name in found if name.startswith(prefix) and not _is_inner(name))

    def read(self, name: str) -> bytes:
        return self._read(lambda store: bytes(store.get(name).bytes()))

    def open(self, name: str) -> pa.BufferReader:
        return pa.BufferReader(self.read(name))

    def create(self, name: str, data: bytes | bytearray) -> None:
        try:
            self._write(name, data, mode="create")
        except FileExistsError:
            # Where the store's answer is lost the request is made again, and meets what it has just made itself.
            if self._read_or_none(name) != data:
                raise

    def replace(self, name: str, data: bytes | bytearray) -> None:
        self._write(name, data, mode="overwrite")

    def stage(self, name: str, data: bytes | bytearray) -> str:
        staged = f"{_STAGED}{uuid.uuid4().hex[:8]}/{name}"
        self._write(staged, data, mode="overwrite")
        return staged

    def note(self, name: str, text: str) -> None:
        with suppress(StorageError):
            self.replace(name, text.encode("utf-8", errors="backslashreplace"))

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
        with Lease(self._store, "run.lock", self.location):
            try:
                yield
            finally:
                self._flush_logs()

    def holder(self) -> Holder | None:
        try:
            facts = json.loads(self.read("run.lock"))
            if not is_over(facts):
                return Holder(str(facts["host"]), int(facts["pid"]), float(facts.get("since") or 0))
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            pass
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
        """An object that was not wholly sent is not there: only probes are left behind, and what was never moved."""
        items = self._read(lambda store: [item for batch in store.list() for item in batch])
        for item in items:
            name, age = item["path"], time.time() - item["last_modified"].timestamp()
            if name.startswith(_PROBE) or (name.startswith(_STAGED) and age > _STAGED_LASTS):
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
            self._connected = _connect(self._url)
        return self._connected

    def _read(self, ask: Callable[[Any], T]) -> T:
        try:
            return ask(self._store)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise _unreachable(self._url, error) from error

    def _read_or_none(self, name: str) -> bytes | None:
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

    def _write(self, name: str, data: bytes | bytearray, *, mode: str) -> None:
        with self._writing(name):
            # In one request: only that can be conditional. A shard is some megabytes.
            self._store.put(name, io.BytesIO(data), mode=mode, use_multipart=False)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        from obstore.exceptions import AlreadyExistsError

        try:
            yield
        except AlreadyExistsError as error:
            raise FileExistsError(self.place(name)) from error
        except StorageError:
            raise
        except Exception as error:
            raise StorageError(
                f"cannot write {self.place(name)}: {_first_line(error)}; see that the bucket is there and the "
                "credentials in the environment may write to it, then run the same command again"
            ) from error

    def _text(self, name: str) -> str:
        try:
            return self.read(name).decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def _write_log(self, name: str, log: _Log) -> None:
        log.written_at = time.monotonic()
        self.replace(name, log.text.encode())

    def _flush_logs(self) -> None:
        with self._lock:
            for name, log in self._logs.items():
                with suppress(StorageError):
                    self._write_log(name, log)


class _Log:
    """A log's whole text, and when it was last written."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.written_at = 0.0


def _connect(url: str) -> Any:
    """The store behind an address. Raises StorageError."""
    try:
        import obstore.store
    except ImportError as error:
        raise StorageError(f"{url} needs obstore; pip install 'magpie-synth[objects]'") from error
    try:
        connect: Any = obstore.store.from_url  # its types ask for the kind of store, which the address says
        return connect(url.replace("s3a://", "s3://", 1), client_options=_client_options())
    except Exception as error:
        raise StorageError(f"cannot use {url}: {_first_line(error)}; write it as s3://bucket/run") from error


def _client_options() -> dict[str, Any]:
    """A plain http:// endpoint is for stores on the own network; it has to be asked for."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "") + os.environ.get("AWS_ENDPOINT_URL_S3", "")
    return {"allow_http": True} if endpoint.startswith("http://") else {}


def _is_inner(name: str) -> bool:
    return name.startswith((_PROBE, _STAGED))


def _unreachable(url: str, error: Exception) -> StorageError:
    if isinstance(error, StorageError | RunError):
        raise error
    return StorageError(
        f"cannot read {url}: {_first_line(error)}; see that it can be reached, then run the same command again"
    )


def _first_line(error: Exception) -> str:
    """What a store said, in one line: obstore adds the request, and pages of its own state."""
    said = re.search("<Message>(.*?)</Message>", str(error))
    if said is not None:
        return said[1]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
