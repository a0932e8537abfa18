"""The log of a run: `log.jsonl`, one event a line, with seconds since 1970."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

from magpie.errors import StorageError
from magpie.escaping import as_json
from magpie.runs.live import Announcer
from magpie.runs.run import LOG, Run
from magpie.secrets import redacted_parts


class Log:
    """`log.jsonl`: events appended as they happen. It informs; nothing is ever decided by it."""

    def __init__(self, run: Run | None) -> None:
        self._run = run
        self.announcer = Announcer(run, os.getpid())

    def write(self, event: str, **facts: Any) -> None:
        """Append one event. An error of the disk is passed over: the next shard that cannot be written reports it."""
        if self._run is not None:
            line = as_json({"time": round(time.time(), 3), "event": event, **redacted_parts(facts)})
            with suppress(OSError, StorageError):
                self._run.storage.append(LOG, line + "\n")
