"""How vLLM ends: a process of its own that dies is seen, and what it died of is said in one line."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from magpie.engines.vllm.quiet import Said
from magpie.errors import EngineError, EngineMemoryError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

LAST_WORDS = 2.0
"""Seconds that an engine that ends by itself has to say why."""

_EXIT_CODE_TAKES = 1.0  # less than LAST_WORDS, for which the engine waits to be told
"""Seconds, at most, until a process that has ended has its exit code, whichever thread asked first."""


class ProcessWatch:
    """Watches the processes that vLLM starts, in a thread of its own.

    The engine's thread cannot: it waits in `step` for a queue which that process was to fill, and vLLM's own monitor,
    which sees the death, says nothing there. `is_over` says whether the engine is closed or known to be lost;
    `on_death` is told of the first process that dies before.
    """

    def __init__(
        self, is_over: Callable[[], bool], on_death: Callable[[EngineError], None], said: Said
    ) -> None:
        self._is_over, self._on_death, self._said = is_over, on_death, said
        self._has_ended = threading.Event()
        self._how = ""

    def begin(self, llm: Any, before: set[BaseProcess]) -> None:
        """Watch the processes that are there and were not before, if any."""
        processes = [child for child in multiprocessing.active_children() if child not in before]
        if processes:
            threading.Thread(
                target=self._watch, args=(llm, processes), name="magpie-vllm-watch", daemon=True
            ).start()

    def told(self, error: BaseException) -> BaseException:
        """An error of vLLM's, or what its process died of, where the error only says that it is dead."""
        if type(error).__name__ == "EngineDeadError" and self._has_ended.wait(LAST_WORDS):
            return EngineError(self._how)
        if "initialization failed" in str(error):
            return EngineError(self._said.reason() or last_line(error))
        return error

    def _watch(self, llm: Any, processes: list[BaseProcess]) -> None:
        by_sentinel: dict[Any, BaseProcess] = {process.sentinel: process for process in processes}
        gone = multiprocessing.connection.wait(list(by_sentinel))
        # vLLM's monitor asks for the exit code at the same moment. Only one of two gets it from the system, and has it
        # for both a little later.
        ended = [by_sentinel[sentinel] for sentinel in gone]
        end = time.monotonic() + _EXIT_CODE_TAKES
        while (how := _ending(ended)) is None and time.monotonic() < end:
            time.sleep(0.05)
        self._how = how or f"its process {ended[0].name} ended"
        reason = self._said.reason()
        if reason is not None and "SIG" not in self._how:  # one that was killed could say nothing
            self._how += f": {reason}"
        self._has_ended.set()
        if self._is_over():
            return
        time.sleep(LAST_WORDS)  # a process that ends by an error of its own says so in the queue
        if self._is_over():
            return
        error = EngineError(self._how)
        self._on_death(error)
        with contextlib.suppress(Exception):
            llm.engine_core.outputs_queue.put_nowait(error)  # lets the engine's thread end


def load_error(name: str, error: BaseException, slots: int | None) -> EngineError:
    """That a model could not be loaded, with so many slots, why, and what may help."""
    said = f"vLLM could not load {name}: {last_line(error)}"
    if "memory" not in str(error).lower():
        return EngineError(
            f"{said}; MAGPIE_LOG=DEBUG shows all that vLLM says; `--engine transformers` may load it"
        )
    advice = "set a smaller `context_length`, `slots` or `gpu_memory`, or a larger `tensor_parallel`"
    return EngineMemoryError(f"{said}; {advice}", slots)


def death_message(error: BaseException) -> str:
    """That the engine is lost, of what, and that nothing else is."""
    return (
        f"the vLLM engine died: {last_line(error)}; run the same command again to go on from the last shard"
    )


def last_line(error: BaseException) -> str:
    """The reason in an error: vLLM's messages may hold a whole traceback, with the reason in its last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _ending(ended: Sequence[BaseProcess]) -> str | None:
    """Which process ended first, and how; None while that is not known.

    Where vLLM's own monitor has taken the exit code from the system and closed the process, it stays unknown.
    """
    for process in ended:
        with contextlib.suppress(ValueError):  # closed, by the same monitor
            if process.exitcode is not None:
                return f"its process {process.name} ended {_how(process.exitcode)}"
    return None


def _how(code: int) -> str:
    """How a process ended, from its exit code, which is negative for a signal."""
    if code >= 0:
        return f"with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal has no name
        name = f"signal {-code}"
    # What the kernel sends when memory runs out.
    return f"by {name}" + (", as the kernel does when memory is short" if name == "SIGKILL" else "")
