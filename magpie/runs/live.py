"""What a build at work says of itself, for others to read: `progress.json`, replaced every few seconds.

It informs, and nothing is ever decided by it. It is no part of what a run seals, and goes when the build ends.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from magpie.errors import StorageError
from magpie.runs.run import PROGRESS, Run

_EVERY = 3.0


@dataclass(frozen=True, slots=True)
class StepProgress:
    """A step of a build at work. `rows` of `rows_in_all` are committed, `fresh` of them by this build.

    `in_hand` is about how many rows of shards that are not committed yet are done. `rows_per_second` and
    `seconds_left` are None where nothing was made yet; the latter once all is done.
    """

    name: str
    rows: int
    rows_in_all: int
    fresh: int
    in_hand: int
    tokens: int
    rows_per_second: float | None
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class Running:
    """A build at work: its process, and since when in seconds since 1970; `host` is "" where not known.

    `doing` is what it is at, `updated` when it last said so, `steps` those it has begun with. These are empty, and
    `updated` None, while it has said nothing yet.
    """

    host: str
    pid: int
    since: float
    seconds: float
    updated: float | None = None
    doing: str = ""
    steps: tuple[StepProgress, ...] = ()


def running(run: Run) -> Running | None:
    """The build that holds the run now; None while there is none."""
    holder = run.storage.holder()
    if holder is None:
        return None
    seconds = max(0.0, time.time() - holder.since) if holder.since else 0.0
    said = _said(run, holder.pid)
    try:
        return Running(
            holder.host, holder.pid, holder.since, seconds, float(said["updated"]), str(said["doing"]),
            tuple(StepProgress(**step) for step in said["steps"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError):
        return Running(holder.host, holder.pid, holder.since, seconds)


def _said(run: Run, pid: int) -> Mapping[str, Any]:
    """What the build with this number has said last; empty where another did, or none."""
    try:
        said = json.loads(run.storage.read(PROGRESS))
    except (OSError, ValueError, StorageError, RecursionError):
        return {}
    return said if isinstance(said, dict) and said.get("pid") == pid else {}


class Announcer:
    """Says how far a build is, every few seconds and not more often."""

    def __init__(self, run: Run | None, pid: int) -> None:
        self._run, self._pid = run, pid
        self._last = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is time to say so again."""
        return self._run is not None and time.monotonic() - self._last >= _EVERY

    def say(self, doing: str, steps: Iterable[StepProgress]) -> None:
        """Replace what was said before."""
        if self._run is not None:
            self._last = time.monotonic()
            said = {"pid": self._pid, "updated": round(time.time(), 3), "doing": doing}
            text = json.dumps({**said, "steps": [asdict(step) for step in steps]}, ensure_ascii=False)
            self._run.storage.note(PROGRESS, text + "\n")

    def end(self) -> None:
        """Take it away: the build is over."""
        if self._run is not None:
            with suppress(StorageError):
                self._run.storage.delete(PROGRESS)
