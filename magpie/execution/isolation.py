"""Finding the request that kills an engine: every request is announced before it is made, and few are made at once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from magpie.engines.base import Completion, ModelInfo, Sampling, Score
from magpie.execution.base import Answered, Asked, Isolation, Report

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from magpie.execution.scheduler import QueuedEngine

_REASON = "the engine died of this request each time it was made"


class IsolatedEngine:
    """The engine or scorer of a shard in isolation.

    `delivered` returns when everything reported so far has left this process: what it says must outlive the engine.
    """

    def __init__(
        self,
        engine: QueuedEngine,
        shard: int,
        isolation: Isolation,
        report: Report,
        delivered: Callable[[], Awaitable[None]],
    ) -> None:
        self._engine, self._shard, self._isolation = engine, shard, isolation
        self._report, self._delivered = report, delivered
        self._room = asyncio.Semaphore(isolation.at_once)

    @property
    def model(self) -> ModelInfo:
        """What is loaded."""
        return self._engine.model

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """The engine's completion, or an error for a request that is known to kill it."""
        request = request_key(prompt, sampling.seed)
        if request in self._isolation.deadly:
            return Completion(text="", token_count=0, finish_reason="error", error=_REASON)
        async with self._announced(request):
            return await self._engine.complete(prompt, sampling)

    async def score(self, conversation: Sequence[int]) -> Score:
        """The scorer's reward, or an error for a request that is known to kill it."""
        request = request_key(conversation, 0)
        if request in self._isolation.deadly:
            return Score(None, _REASON)
        async with self._announced(request):
            return await self._engine.score(conversation)

    async def close(self) -> None:
        """The executor closes the engine, not the shard."""

    @asynccontextmanager
    async def _announced(self, request: str) -> AsyncIterator[None]:
        suspects = self._isolation.suspects
        if suspects is not None and request not in suspects:
            yield
            return
        async with self._room:
            self._report(Asked(self._shard, request))
            await self._delivered()
            yield
            self._report(Answered(self._shard, request))


def request_key(prompt: Sequence[int], seed: int) -> str:
    """A name for a request that is the same in every process."""
    text = ",".join(map(str, prompt))
    return hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=12).hexdigest()
