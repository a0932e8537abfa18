"""An event loop whose clock jumps: hours on GPUs are simulated in seconds, by the very code that runs there."""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from magpie.engines.base import Completion, ModelInfo, Sampling


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, except that waiting takes no time: the clock goes on to the next thing that is due."""

    def __init__(self) -> None:
        self._clock = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Seconds of the simulation."""
        return self._clock

    def jump(self, seconds: float) -> None:
        """Let so much time pass."""
        self._clock += seconds

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, work: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        """Done here and now: were it done by a thread, hours would pass on this clock before it answers."""
        done = self.create_future()
        try:
            done.set_result(work(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done


class _JumpingSelector(selectors.SelectSelector):
    """Never waits for a file: a loop in virtual time has none."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the simulation waits for something that never comes")
        self._loop.jump(timeout)
        return []


class SimulatedEngine:
    """An Engine that batches continuously: every running sequence gets one token a step, and a free slot is filled.

    `step_seconds` gives the time of one step from the number of running sequences. `length` gives how many tokens a
    request is answered with, from its prompt's first token and its seed.
    """

    def __init__(
        self, slots: int, step_seconds: Callable[[int], float], length: Callable[[int, int], int]
    ) -> None:
        self._step_seconds, self._length = step_seconds, length
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        # A heap, by the step at which each ends.
        self._running: list[tuple[float, int, asyncio.Future[None]]] = []
        self._steps = 0.0
        self._at = self._loop.time()
        self._next: asyncio.TimerHandle | None = None
        self._number = 0
        self.busy_slot_seconds = 0.0
        self.tokens = 0
        self._info = ModelInfo("simulated", "", "simulated", 4096, slots)

    @property
    def model(self) -> ModelInfo:
        """What is simulated."""
        return self._info

    @property
    def running(self) -> int:
        """How many sequences run."""
        return len(self._running)

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """An answer without text, after the time that its tokens take."""
        tokens = self._length(prompt[0], sampling.seed)
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((tokens, done))
        if len(self._running) < self._info.slots:  # else nothing changes before one of them ends
            self._advance()
        await done
        self.tokens += tokens
        return Completion("", tokens, "stop")

    async def close(self) -> None:
        """Nothing more happens."""
        if self._next is not None:
            self._next.cancel()

    def _advance(self) -> None:
        """Bring everything up to the present, fill the free slots, and come back when the next sequence ends."""
        now, running = self._loop.time(), len(self._running)
        if running:
            self._steps += (now - self._at) / self._step_seconds(running)
            self.busy_slot_seconds += running * (now - self._at)
        self._at = now
        while self._running and self._running[0][0] <= self._steps + 1e-6:
            _, _, done = heapq.heappop(self._running)
            if not done.done():
                done.set_result(None)
        while self._waiting and len(self._running) < self._info.slots:
            tokens, done = self._waiting.popleft()
            if not done.done():  # the caller may be gone
                self._number += 1
                heapq.heappush(self._running, (self._steps + tokens, self._number, done))
        if self._next is not None:
            self._next.cancel()
        if self._running:
            steps = self._running[0][0] - self._steps
            self._next = self._loop.call_at(
                now + steps * self._step_seconds(len(self._running)), self._advance
            )
