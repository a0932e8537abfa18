"""How an object store is reached: the store behind an address, a part of an object, and what is said where it fails."""

from __future__ import annotations

import os
import re
from typing import Any

from magpie.errors import RunError, StorageError


def connect(url: str) -> Any:
    """The store behind an address. Raises StorageError."""
    try:
        import obstore.store
    except ImportError as error:
        raise StorageError(f"{url} needs obstore; pip install 'magpie-synth[objects]'") from error
    try:
        connect: Any = obstore.store.from_url  # its types ask for the kind of store, which the address says
        return connect(url.replace("s3a://", "s3://", 1), client_options=_client_options())
    except Exception as error:
        raise StorageError(f"cannot use {url}: {first_line(error)}; write it as s3://bucket/run") from error


def _client_options() -> dict[str, Any]:
    """A plain http:// endpoint is for stores on the own network; it has to be asked for."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "") + os.environ.get("AWS_ENDPOINT_URL_S3", "")
    return {"allow_http": True} if endpoint.startswith("http://") else {}


def version_of(meta: Any) -> dict[str, str]:
    """What names this version of an object in a conditional write: a store gives one of the two, or both."""
    return {key: meta[key] for key in ("e_tag", "version") if meta[key] is not None}


class ObjectFile:
    """An object as a file whose parts are read one by one, as pyarrow wants it."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        return bytes(self._opened.readall() if size < 0 else self._opened.read(size))

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._opened.seek(offset, whence))

    def tell(self) -> int:
        return int(self._opened.tell())

    def close(self) -> None:
        self.closed = True
        self._opened.close()


def unreachable(url: str, error: Exception) -> StorageError:
    """The error that says that a store does not answer. One of magpie's own is raised as it is."""
    if isinstance(error, StorageError | RunError):
        raise error
    return StorageError(
        f"cannot read {url}: {first_line(error)}; see that it can be reached, then run the same command again"
    )


def first_line(error: Exception) -> str:
    """What a store said, in one line: obstore adds the request, and pages of its own state."""
    said = re.search("<Message>(.*?)</Message>", str(error))
    if said is not None:
        return said[1]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
