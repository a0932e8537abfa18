"""Ends vLLM's engine processes when this process ends, even by `kill -9`.

On a GPU, vLLM runs its engine core and its workers in processes of their own. When their parent is killed they live on
and hold the GPU's memory. So every process started inside `watch()` gets a mark in its environment, and a small watcher
process waits until this process ends. It then kills the marked processes and all their descendants, and nothing else.

Nor may they end too soon. A terminal that closes sends SIGHUP to every process in it, and this one still wants its
engines then, to finish what is in flight. So they are started with SIGHUP blocked, and so are those that they start.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import psutil

_MARK: Final = "MAGPIE_ENGINE_MARK"
_ROUNDS: Final = 6
_EVERY: Final = 0.5
_watcher: subprocess.Popen[bytes] | None = None
_mark: Final = uuid.uuid4().hex


@contextlib.contextmanager
def watch() -> Iterator[None]:
    """Processes started inside are killed when this process ends in any way; those started outside are not.

    Before, those that this thread starts are not ended by SIGHUP.
    """
    global _watcher  # noqa: PLW0603
    if _watcher is None or _watcher.poll() is not None:
        _watcher = subprocess.Popen(
            # -P: without it the current folder stands first on the path: a `psutil.py` or `magpie/` there would run.
            [sys.executable, "-P", "-m", "magpie.engines.vllm.orphans", str(os.getpid()), _mark],
            stdin=subprocess.PIPE,  # never written to: it closes when this process ends, however it ends
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={key: value for key, value in os.environ.items() if key != _MARK},
            start_new_session=True,  # Ctrl-C in the terminal must not end the watcher
        )
    before = os.environ.get(_MARK)
    os.environ[_MARK] = _mark
    try:
        with _sighup_blocked():
            yield
    finally:
        if before is None:
            del os.environ[_MARK]
        else:
            os.environ[_MARK] = before


@contextlib.contextmanager
def _sighup_blocked() -> Iterator[None]:
    # Blocked in this thread, and not ignored: only the main thread could have it ignored, and then a SIGHUP that comes
    # meanwhile would be lost. This way another thread takes it, or this one afterwards.
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def main(parent: int, mark: str) -> None:
    """The watcher: remember the parent's marked processes until it ends, then kill what is left of them."""
    import psutil

    # The pipe alone is not enough: a child that was forked while it was open holds its other end, and it never closes.
    ends: list[Any] = [sys.stdin]
    # Where there is no such call, or the parent has ended already, the pipe says so.
    with contextlib.suppress(AttributeError, OSError):
        ends.append(os.pidfd_open(parent))
    # They are remembered, because a process that renames itself overwrites its environment, and with it the mark.
    ours: set[psutil.Process] = set()
    while not select.select(ends, [], [], _EVERY)[0]:
        with contextlib.suppress(psutil.Error):
            ours.update(_ours(psutil.Process(parent), mark, ours))
    # All processes are searched for the mark, in several rounds: a child may be half started when the parent dies.
    for _ in range(_ROUNDS):
        for process in {*ours, *(process for process in psutil.process_iter() if _is_marked(process, mark))}:
            with contextlib.suppress(psutil.Error):
                process.kill()  # psutil checks that the process id has not been given to another process
        time.sleep(_EVERY)


def _ours(parent: psutil.Process, mark: str, remembered: set[psutil.Process]) -> set[psutil.Process]:
    """The descendants of `parent` that carry the mark or are remembered, with all of their own."""
    import psutil

    ours: set[psutil.Process] = set()
    unchecked = parent.children()
    while unchecked:
        process = unchecked.pop()
        with contextlib.suppress(psutil.Error):
            if process in remembered or _is_marked(process, mark):
                ours |= {process, *process.children(recursive=True)}
            else:
                unchecked += process.children()
    return ours


def _is_marked(process: psutil.Process, mark: str) -> bool:
    import psutil

    try:
        return process.environ().get(_MARK) == mark
    except (psutil.Error, OSError):
        return False


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
