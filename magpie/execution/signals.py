"""Stopping when asked: a signal ends a build soon, whatever it is at, with one line on how to go on.

SIGINT comes from a person who waits: what is in flight is dropped. SIGTERM and SIGUSR1 come from what runs the machine,
such as Slurm some time before it takes the job away, and SIGHUP from a terminal that closes: shards in flight may be
finished, as long as the time of grace lasts. SIGHUP reaches all that runs in the terminal: how engines and Ray are kept
from it is in `engines/vllm/orphans.py`.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import FrameType, TracebackType
from typing import Any, TypeVar

from magpie.errors import StoppedError
from magpie.machine import STOPS

R = TypeVar("R")

GRACE = 10.0
"""Seconds that shards in flight have to be finished once a stop is asked for, unless another time is given.

With as long again for the engine to let go, that is less than the 30 seconds that Slurm and Kubernetes allow.
"""

_LETS_GO = 10.0


class Stoppable:
    """While the block lasts, the signals of STOPS that are not ignored end it with a StoppedError.

    Work given to `run` may finish what is in flight within `grace` seconds, except after SIGINT; then it is cancelled.
    Anything else is interrupted where it is, and so is everything by a second signal, unless that is SIGHUP. Outside
    the main thread signals are left to whoever has it.
    """

    def __init__(self, grace: float = GRACE) -> None:
        self._grace = grace
        self._caught: signal.Signals | None = None
        self._cancel: Callable[[], object] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stoppable:
        if threading.current_thread() is threading.main_thread():
            # What is ignored stays so: `nohup` has a closed terminal ignored.
            heard = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._asked) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._caught is not None and error is not None:
            raise StoppedError(
                f"stopped by {self._caught.name}; everything committed is safe: "
                "run the same command again to go on"
            ) from None

    def run(self, work: Coroutine[Any, Any, None], *, drain: Callable[[], bool] = lambda: False) -> None:
        """asyncio.run, except that after a signal nothing waits for a thread that is still at work.

        `drain` has the work begin with nothing more, and says whether anything is in flight that should be waited for.
        Where a loop is running already, as in a notebook, the work has a thread and a loop of its own.
        """
        if _in_a_loop():
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="magpie-build") as beside:
                beside.submit(self._run, work, drain).result()
        else:
            self._run(work, drain)

    def _run(self, work: Coroutine[Any, Any, None], drain: Callable[[], bool]) -> None:
        loop = asyncio.new_event_loop()
        asked = asyncio.Event()
        self._cancel = lambda: loop.call_soon_threadsafe(asked.set)
        try:
            loop.run_until_complete(self._until(asked, work, drain))
            if self._caught is not None:
                raise KeyboardInterrupt
        finally:
            self._cancel = None
            _end(loop, wait_for_threads=self._caught is None)

    async def _until(
        self, asked: asyncio.Event, work: Coroutine[Any, Any, None], drain: Callable[[], bool]
    ) -> None:
        task, waiting = asyncio.create_task(work), asyncio.create_task(asked.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not task.done() and self._caught is not signal.SIGINT and drain():
            await asyncio.wait({task}, timeout=self._grace)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_LETS_GO)
        if task.done():
            await task

    def _asked(self, number: int, _: FrameType | None) -> None:
        first = self._caught is None
        # A terminal that closes says so twice: the shell tells its jobs, and the system does when the shell has ended.
        if not first and number == getattr(signal, "SIGHUP", None):
            return
        self._caught = signal.Signals(number)
        if first and self._cancel is not None:
            self._cancel()
        else:
            raise KeyboardInterrupt


def run_to_end(work: Coroutine[Any, Any, R]) -> R:
    """asyncio.run, which also works where a loop is running already, as in a notebook."""
    if not _in_a_loop():
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="magpie") as beside:
        return beside.submit(asyncio.run, work).result()


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _end(loop: asyncio.AbstractEventLoop, *, wait_for_threads: bool) -> None:
    left = asyncio.all_tasks(loop)
    loop.set_exception_handler(lambda *_: None)  # a task that will not end is abandoned without a word
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left, timeout=1))
    loop.run_until_complete(loop.shutdown_asyncgens())
    if wait_for_threads:
        loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
