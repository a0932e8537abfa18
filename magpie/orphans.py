"""No engine process outlives us, not even when we are killed.

vLLM keeps its engine core and its workers in processes of their own on a GPU, and they stay alive, holding the GPU,
when their parent dies without a word. `watch()` starts a small process that waits for our death and then ends our
children, however deep, and every process that carries our mark in its environment.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import psutil

_MARK: Final = "MAGPIE_ENGINE_MARK"
_ROUNDS: Final = 6
_EVERY: Final = 0.5
_watcher: subprocess.Popen[bytes] | None = None


def watch() -> None:
    """Mark every process started from now on, and have the marked ones ended when this process ends in any way."""
    global _watcher  # noqa: PLW0603
    if _watcher is not None and _watcher.poll() is None:
        return
    mark = uuid.uuid4().hex
    environment = {key: value for key, value in os.environ.items() if key != _MARK}
    _watcher = subprocess.Popen(
        [sys.executable, "-m", "magpie.orphans", str(os.getpid()), mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    os.environ[_MARK] = mark


def main(parent: int, mark: str) -> None:
    """Remember the parent's children until the pipe from it closes, then end what it left.

    A process may rename itself and so overwrite its environment, hence the memory; a child may be half started when
    the parent dies, hence the mark, and several rounds.
    """
    import psutil

    children: set[psutil.Process] = set()
    while not select.select([sys.stdin], [], [], _EVERY)[0]:
        with contextlib.suppress(psutil.Error):
            children.update(psutil.Process(parent).children(recursive=True))
    children.discard(psutil.Process())
    for _ in range(_ROUNDS):
        for process in {*children, *_marked(mark)}:
            with contextlib.suppress(psutil.Error):
                process.kill()  # psutil makes sure that the number has not gone to another process
        time.sleep(_EVERY)


def _marked(mark: str) -> Iterator[psutil.Process]:
    import psutil

    wanted = f"{_MARK}={mark}".encode()
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            if process.pid != os.getpid() and wanted in Path(f"/proc/{process.pid}/environ").read_bytes():
                yield process


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
