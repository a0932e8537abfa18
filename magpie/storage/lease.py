"""A lock on an object store: an object that says who holds it and until when, renewed while its holder lives."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any

from magpie.errors import RunError
from magpie.storage.connection import version_of
from magpie.storage.owner import Owner

LASTS = 60.0
"""Seconds that a lease lasts after its last renewal: so long a build waits behind one whose machine died."""

_RENEW_EVERY = LASTS / 4
_LOOK_EVERY = 2.0
_TRIES = 5

_logger = logging.getLogger(__name__)


class Lease:
    """Held while the block lasts, and `is_lost` where it ran out before it could be renewed, and another took it.

    Raises RunError while another build holds it.

    Every change of the object names the version that it replaces, so that of two builds only one gets through.
    """

    def __init__(self, store: Any, name: str, location: str) -> None:
        self._store, self._name, self._location = store, name, location
        self._owner, self._since = uuid.uuid4().hex, time.time()
        self._version: Any = None
        self._until = 0.0
        self._renewal = threading.Lock()
        self.is_lost = False
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

    def is_held(self) -> bool:
        """Whether it is still ours. The store is asked where the last renewal is too long ago."""
        # After a while in which this process, or its machine, stood still: the renewing thread may wake later.
        if not self.is_lost and time.time() > self._until:
            self._renew_once()
        return not self.is_lost

    def _take(self) -> Any:
        from obstore.exceptions import AlreadyExistsError

        for _ in range(_TRIES):  # it may be let go, or taken, between two requests
            try:
                return self._put("create")
            except AlreadyExistsError:
                pass
            try:
                holder, version = self._holder()
            except FileNotFoundError:
                continue
            if holder.get("owner") == self._owner:
                return version  # the store had done what was asked, and its answer was lost
            if not is_over(holder) and not self._runs_out(holder, version):
                raise RunError(
                    f"another build is at work in {self._location}: process {holder.get('pid')} on "
                    f"{holder.get('host')}; wait for it, or see `magpie status {self._location}`"
                )
            with suppress(Exception):  # another build was faster
                return self._put(version)
        raise RunError(f"another build takes the lock of {self._location}; run the same command again")

    def _runs_out(self, holder: dict[str, Any], version: Any) -> bool:
        """Whether a lease runs out before it is renewed: then its holder's machine is dead. Only time can tell."""
        if _process_of(holder) is not None:
            return False  # it is of this machine, and lives
        left = holder["until"] - time.time()
        _logger.warning(
            "the last build in %s, on %s, did not let go of its lock; it counts for %.0f more seconds, or is renewed",
            self._location,
            holder.get("host"),
            left,
        )
        while time.time() < holder["until"]:
            time.sleep(min(_LOOK_EVERY, max(0.01, holder["until"] - time.time())))
            try:
                if self._holder()[1] != version:
                    return False
            except FileNotFoundError:
                return True
        return True

    def _put(self, mode: Any) -> Any:
        until = time.time() + LASTS
        content = {
            "owner": self._owner,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process": asdict(Owner.me()),
            "since": self._since,
            "until": until,
        }
        result = self._store.put(self._name, json.dumps(content).encode(), mode=mode, use_multipart=False)
        self._until = until
        return version_of(result)

    def _holder(self) -> tuple[dict[str, Any], Any]:
        answer = self._store.get(self._name)
        try:
            holder = json.loads(bytes(answer.bytes()))
        except (ValueError, RecursionError):
            holder = {}
        return holder if isinstance(holder, dict) else {}, version_of(answer.meta)

    def _renew(self) -> None:
        while not self._ended.wait(_RENEW_EVERY):
            self._renew_once()

    def _renew_once(self) -> None:
        # A request that fails is made again at the next turn: there are three before the lease runs out.
        with self._renewal, suppress(Exception):
            try:
                self._version = self._put(self._version)
            except Exception:
                # It may have been done, and only the answer lost: then the version is another.
                holder, version = self._holder()
                if holder.get("owner") == self._owner:
                    self._version = version
                else:
                    self.is_lost = True


def is_over(holder: dict[str, Any]) -> bool:
    """Whether a lease counts no longer: it has run out, or is that of a process of this machine that has ended."""
    until = holder.get("until")
    # "Not later than", and not "earlier than": NaN is neither, and a lease until then must count as over.
    has_run_out = not isinstance(until, int | float) or not until > time.time()
    return has_run_out or _process_of(holder) is True


def _process_of(holder: dict[str, Any]) -> bool | None:
    """Whether the holder's process has ended; None where this machine cannot know."""
    try:
        return Owner(**holder["process"]).is_dead
    except (KeyError, TypeError):
        return None
