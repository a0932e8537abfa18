"""No engine process outlives us, not even when we are killed.

vLLM keeps its engine core and its workers in processes of their own on a GPU, and they stay alive, holding the GPU,
when their parent dies without a word. `watch()` starts a small process that waits for our death and then ends every
process that carries our mark in its environment: children inherit the mark, however deep.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from typing import Final

_MARK: Final = "MAGPIE_ENGINE_MARK"
_ROUNDS: Final = 6
_watcher: subprocess.Popen[bytes] | None = None


def watch() -> None:
    """Mark every process started from now on, and have the marked ones ended when this process ends in any way."""
    global _watcher  # noqa: PLW0603
    if _watcher is not None and _watcher.poll() is None:
        return
    mark = uuid.uuid4().hex
    environment = {key: value for key, value in os.environ.items() if key != _MARK}
    _watcher = subprocess.Popen(
        [sys.executable, "-m", "magpie.orphans", mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    os.environ[_MARK] = mark


def _end_marked(mark: str) -> int:
    """Kill every process that carries the mark; how many there were."""
    import psutil

    ended = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(_MARK) == mark:
                process.kill()
                ended += 1
    return ended


def main(mark: str) -> None:
    """Wait until the pipe from the parent closes, then end what it left. A child may be half started: look again."""
    while sys.stdin.buffer.read(1):
        pass
    for _ in range(_ROUNDS):
        _end_marked(mark)
        time.sleep(0.5)


if __name__ == "__main__":
    main(sys.argv[1])
