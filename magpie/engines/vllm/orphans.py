"""No engine process outlives us, not even when we are killed.

vLLM keeps its engine core and its workers in processes of their own on a GPU, and they stay alive, holding the GPU,
when their parent dies without a word. What is started inside `watch()` carries our mark in its environment; a small
process waits for our death and then ends the marked ones and their children, however deep, and nothing else.
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
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import psutil

_MARK: Final = "MAGPIE_ENGINE_MARK"
_ROUNDS: Final = 6
_EVERY: Final = 0.5
_watcher: subprocess.Popen[bytes] | None = None
_mark: Final = uuid.uuid4().hex


@contextlib.contextmanager
def watch() -> Iterator[None]:
    """Every process started inside is ended when this process ends in any way; those started outside are not."""
    global _watcher  # noqa: PLW0603
    if _watcher is None or _watcher.poll() is not None:
        _watcher = subprocess.Popen(
            [sys.executable, "-m", "magpie.engines.vllm.orphans", str(os.getpid()), _mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={key: value for key, value in os.environ.items() if key != _MARK},
            start_new_session=True,
        )
    before = os.environ.get(_MARK)
    os.environ[_MARK] = _mark
    try:
        yield
    finally:
        if before is None:
            del os.environ[_MARK]
        else:
            os.environ[_MARK] = before


def main(parent: int, mark: str) -> None:
    """Remember the parent's marked children, and theirs, until the pipe from it closes; then end what it left.

    A process may rename itself and so overwrite its environment, hence the memory; a child may be half started when
    the parent dies, hence the mark, and several rounds.
    """
    import psutil

    ours: set[psutil.Process] = set()
    while not select.select([sys.stdin], [], [], _EVERY)[0]:
        with contextlib.suppress(psutil.Error):
            ours.update(_ours(psutil.Process(parent), mark, ours))
    for _ in range(_ROUNDS):
        for process in {*ours, *(process for process in psutil.process_iter() if _is_marked(process, mark))}:
            with contextlib.suppress(psutil.Error):
                process.kill()  # psutil makes sure that the number has not gone to another process
        time.sleep(_EVERY)


def _ours(parent: psutil.Process, mark: str, known: set[psutil.Process]) -> set[psutil.Process]:
    """Its children that carry the mark or are known, with all of theirs."""
    import psutil

    found: set[psutil.Process] = set()
    left = parent.children()
    while left:
        process = left.pop()
        with contextlib.suppress(psutil.Error):
            if process in known or _is_marked(process, mark):
                found |= {process, *process.children(recursive=True)}
            else:
                left += process.children()
    return found


def _is_marked(process: psutil.Process, mark: str) -> bool:
    import psutil

    try:
        return process.environ().get(_MARK) == mark
    except (psutil.Error, OSError):
        return False


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
