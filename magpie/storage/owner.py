"""Which process a file belongs to: the machine, the process, and when that began, since numbers are used again."""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Owner:
    """A process: a token of its machine, its number, and when it began, in the machine's own ticks."""

    machine: str
    pid: int
    began: int

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        pid = os.getpid()
        return cls(this_machine(), pid, _began_once(pid))

    @property
    def is_dead(self) -> bool | None:
        """Whether the process has ended; None where this machine cannot know."""
        if self.machine != this_machine():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # another user's
        began = _began(self.pid)
        return began is not None and began != self.began


@lru_cache(maxsize=1)
def this_machine() -> str:
    """A token of this machine, this boot of it, and the container that numbers the processes."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        pass  # no Linux: the name is all there is
    return hashlib.blake2b("/".join(parts).encode(errors="surrogateescape"), digest_size=4).hexdigest()


@lru_cache(maxsize=4)
def _began_once(pid: int) -> int:
    return _began(pid) or 0


def _began(pid: int) -> int | None:
    """When a process began; 0 for one that has ended and only waits for its parent; None where it is not known."""
    try:
        # In ticks since the boot: psutil adds the time of the boot, which moves when the clock is set.
        state, *rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return 0 if state in {"Z", "X"} else int(rest[18])
    except (OSError, ValueError, IndexError):
        pass
    try:
        process = psutil.Process(pid)
        return 0 if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time())
    except psutil.Error:
        return None
