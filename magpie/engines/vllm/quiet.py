"""Standard error, silenced while a library loads, and what was said there kept for when it fails."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

_MOST = 1 << 20
"""Bytes at the end of what was said that are looked at."""

# vLLM's lines begin with the process, and its log's with the level, the time and the place.
_ERROR = re.compile(r"^(?:\(.*?\) )?(?:ERROR .*?\] )?((?:\w+\.)*\w*(?:Error|Exception): \S.*)$")
_SAYS_NOTHING = re.compile(r"See (?:root cause|stack trace)|EngineDead|WorkerProc initialization failed")


class Said:
    """What this process and its children have said on standard error."""

    def __init__(self) -> None:
        # A file without a name, which is gone when the last child that writes to it is.
        self._handle, path = tempfile.mkstemp()
        Path(path).unlink()
        weakref.finalize(self, os.close, self._handle)

    def fileno(self) -> int:
        """The descriptor that is written to."""
        return self._handle

    def reason(self) -> str | None:
        """The last error in it that names a reason: a process of vLLM's says there, and only there, what it died of."""
        try:
            size = os.fstat(self.fileno()).st_size
            text = os.pread(self.fileno(), _MOST, max(0, size - _MOST)).decode(errors="replace")
        except OSError:
            return None  # Python is ending and has closed the file, while the thread that watches vLLM still runs
        found = [match[1] for line in text.splitlines() if (match := _ERROR.match(line.strip()))]
        return next((error for error in reversed(found) if not _SAYS_NOTHING.search(error)), None)


@contextlib.contextmanager
def silence_stderr(said: Said) -> Iterator[None]:
    """Keep what this process and its children write to standard error inside to `said`.

    Children that are started inside write there for as long as they live.
    """
    # The file descriptor itself, not `sys.stderr`: C++ code and child processes write to the descriptor.
    kept = os.dup(2)
    os.dup2(said.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
