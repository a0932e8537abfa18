"""One build at a time in a folder, and who it is.

The lock is the system's (flock), which lets go of it when its process dies. Some network disks have none. There, a
file that only one process can create stands for it: its owner touches it every few seconds, and when it has not been
touched for a minute, or its owner is known to be dead, it counts no longer.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from magpie.errors import RunError
from magpie.storage.base import Holder
from magpie.storage.owner import Owner
from magpie.storage.reading import persistently, read_file, shown
from magpie.storage.temporary import temporary
from magpie.storage.writing import storage_errors

LOCK = "run.lock"
LEASE = "run.lease"

_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
_TRIES, _BETWEEN = 20, 0.05  # who asks for the holder has the lock for an instant
_TOUCHED_EVERY, _STALE_AFTER = 10.0, 60.0

_logger = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder. Raises RunError while another process holds it, StorageError."""
    with storage_errors(folder / LOCK):
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        if _try_lock(folder, handle):
            by = _leaseholder(folder)
            if by is not None:  # a machine that sees the same disk without locks
                raise _refusal(folder, by)
            _write_holder(handle)
            yield
        else:
            _logger.warning(
                "the disk of %s has no locks; the file %s keeps other builds out instead",
                shown(folder),
                LEASE,
            )
            with _leased(folder):
                yield
    finally:
        os.close(handle)


def holder(folder: Path) -> Holder | None:
    """Who holds the folder; None while nobody does."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return _leaseholder(folder)
    try:
        if _flock(handle, shared=True) is not False:
            return _leaseholder(folder)
        return _parsed(os.pread(handle, 4096, 0)) or Holder("", 0, 0.0)
    except OSError:
        return None
    finally:
        os.close(handle)


def _try_lock(folder: Path, handle: int) -> bool:
    """Whether the system has locked the file; False where it has no locks."""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_BETWEEN)
        gained = _flock(handle)
        if gained is not False:
            return gained is True
    raise _refusal(folder, holder(folder))


def _flock(handle: int, *, shared: bool = False) -> bool | None:
    """Whether the lock is ours now; None where there are no locks."""
    import fcntl

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        with storage_errors(Path(LOCK)):
            raise
    return True


def _refusal(folder: Path, by: Holder | None) -> RunError:
    who = f" (process {by.pid} on {by.host})" if by is not None and by.pid else ""
    place = shown(folder)
    return RunError(f"another build is at work in {place}{who}; wait for it, or see `magpie status {place}`")


# Who holds it


def _facts() -> bytes:
    me = Owner.me()
    facts = {"host": socket.gethostname(), "pid": me.pid, "since": round(time.time(), 3), "owner": asdict(me)}
    return (json.dumps(facts) + "\n").encode()


def _write_holder(handle: int) -> None:
    with suppress(OSError):  # it only informs
        facts = _facts()
        os.ftruncate(handle, 0)
        os.pwrite(handle, facts, 0)


def _parsed(data: bytes) -> Holder | None:
    try:
        facts: dict[str, Any] = json.loads(data)
        return Holder(str(facts["host"]), int(facts["pid"]), float(facts["since"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


# Where there are no locks


def _leaseholder(folder: Path) -> Holder | None:
    path = folder / LEASE
    try:
        data = persistently(path, lambda: read_file(path))
        return None if _is_stale(path, data) else _parsed(data) or Holder("", 0, 0.0)
    except OSError:
        return None


def _is_stale(path: Path, data: bytes) -> bool:
    try:
        is_dead = Owner(**json.loads(data)["owner"]).is_dead
    except (ValueError, TypeError, KeyError, RecursionError):
        is_dead = None
    return is_dead if is_dead is not None else _now(path) - path.stat().st_mtime > _STALE_AFTER


def _now(path: Path) -> float:
    """The time by the clock of the disk, which may be that of another machine."""
    probe = temporary(path)
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


@contextmanager
def _leased(folder: Path) -> Iterator[None]:
    path, facts = folder / LEASE, _facts()
    for _ in range(3):
        if _created(path, facts):
            break
        by = _leaseholder(folder)
        if by is not None:
            raise _refusal(folder, by)
        # Of two who find it stale one moves it aside; the other then finds nothing, or a new one.
        with suppress(OSError):
            aside = temporary(path)
            path.rename(aside)
            aside.unlink()
    else:
        raise _refusal(folder, _leaseholder(folder))
    is_over = threading.Event()
    beat = threading.Thread(target=_touch, args=(path, facts, is_over), name="magpie-lease", daemon=True)
    beat.start()
    try:
        yield
    finally:
        is_over.set()
        beat.join()
        with suppress(OSError):
            if read_file(path) == facts:
                path.unlink()


def _created(path: Path, facts: bytes) -> bool:
    with storage_errors(path):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(handle, "wb") as file:
            file.write(facts)
            file.flush()
            os.fsync(handle)
        return True


def _touch(path: Path, facts: bytes, is_over: threading.Event) -> None:
    while not is_over.wait(_TOUCHED_EVERY):
        with suppress(OSError):
            if read_file(path) == facts:
                os.utime(path)
