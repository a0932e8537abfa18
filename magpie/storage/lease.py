"""A lock on an object store: an object that says who holds it and until when, renewed while its holder lives."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from types import TracebackType
from typing import Any

from magpie.errors import RunError

LASTS = 60.0
"""Seconds that a lease lasts after its last renewal: so long a build waits behind one that died."""

_RENEW_EVERY = LASTS / 4


class Lease:
    """Held while the block lasts. Raises RunError while another build holds it.

    Every change of the object names the version that it replaces, so that of two builds only one gets through.
    """

    def __init__(self, store: Any, name: str, location: str) -> None:
        self._store, self._name, self._location = store, name, location
        self._owner, self._since = uuid.uuid4().hex, time.time()
        self._version: Any = None
        self._ended = threading.Event()
        self._renewing: threading.Thread | None = None

    def __enter__(self) -> Lease:
        self._version = self._take()
        self._renewing = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._renewing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._renewing is not None:
            self._renewing.join()
        with suppress(Exception):  # one that cannot be deleted runs out
            holder, _ = self._holder()
            if holder.get("owner") == self._owner:
                self._store.delete(self._name)

    def _take(self) -> Any:
        from obstore.exceptions import AlreadyExistsError

        for _ in range(3):  # it may be let go, or taken, between two requests
            try:
                return self._put("create")
            except AlreadyExistsError:
                pass
            try:
                holder, version = self._holder()
            except FileNotFoundError:
                continue
            if holder.get("until", 0) > time.time():
                left = max(1, round(holder["until"] - time.time()))
                raise RunError(
                    f"another build is at work in {self._location}: process {holder.get('pid')} on "
                    f"{holder.get('host')}; wait for it, or {left} s if it is dead"
                )
            with suppress(Exception):  # another build was faster
                return self._put(version)
        raise RunError(f"another build takes the lock of {self._location}; run the same command again")

    def _put(self, mode: Any) -> Any:
        content = {
            "owner": self._owner,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": self._since,
            "until": time.time() + LASTS,
        }
        result = self._store.put(self._name, json.dumps(content).encode(), mode=mode, use_multipart=False)
        return _version(result)

    def _holder(self) -> tuple[dict[str, Any], Any]:
        answer = self._store.get(self._name)
        try:
            holder = json.loads(bytes(answer.bytes()))
        except ValueError:
            holder = {}
        return holder, _version(answer.meta)

    def _renew(self) -> None:
        while not self._ended.wait(_RENEW_EVERY):
            # A request that fails is made again at the next turn: there are three before the lease runs out.
            with suppress(Exception):
                self._version = self._put(self._version)


def _version(meta: Any) -> dict[str, str]:
    """What names this version of an object in a conditional write: a store gives one of the two, or both."""
    return {key: meta[key] for key in ("e_tag", "version") if meta[key] is not None}
