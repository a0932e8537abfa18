"""How full an engine is: what the shards of a phase have asked of it, and when it wants more of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, cast

from magpie.engines.base import Completion, Engine, ModelInfo, Sampling, Score, Scorer

if TYPE_CHECKING:
    from magpie.execution.progress import Progress

T = TypeVar("T")


@dataclass(slots=True)
class Gauge:
    """How much work the engine has: completions asked for and not yet given, and rows about to ask."""

    slots: int
    waiting: int = 0
    promised: dict[int, int] = field(default_factory=dict)
    hungry: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def wants_more(self) -> bool:
        """Whether less is asked for than twice the slots."""
        return self.asked < 2 * self.slots

    @property
    def asked(self) -> int:
        """Completions that wait or are promised."""
        return self.waiting + sum(self.promised.values())

    def has_room(self, running: int, most: int) -> bool:
        """Whether to let one more shard in: up to `most` at once, or more of them while slots are empty."""
        return self.wants_more and (running < most or (running < 4 * most and self.asked < self.slots))


class MeteredEngine:
    """The engine or scorer as one shard sees it: every answer is counted, and the gauge kept."""

    def __init__(self, engine: Engine | Scorer, gauge: Gauge, progress: Progress, shard: int) -> None:
        self._engine, self._gauge, self._progress, self._shard = engine, gauge, progress, shard
        self.step = ""

    @property
    def model(self) -> ModelInfo:
        """What is loaded."""
        return self._engine.model

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """The engine's completion."""
        step = self.step
        completion = await self._metered(cast("Engine", self._engine).complete(prompt, sampling))
        count, cached = completion.token_count, completion.cached_tokens
        self._progress.completed(step, count, prompt=len(prompt), cached=cached)
        return completion

    async def score(self, conversation: Sequence[int]) -> Score:
        """The scorer's reward."""
        step = self.step
        score = await self._metered(cast("Scorer", self._engine).score(conversation))
        self._progress.completed(step, 0)
        return score

    async def _metered(self, asked: Awaitable[T]) -> T:
        gauge = self._gauge
        gauge.promised.pop(self._shard, None)
        gauge.waiting += 1
        try:
            return await asked
        finally:
            gauge.waiting -= 1
            if gauge.wants_more:
                gauge.hungry.set()

    async def close(self) -> None:
        """The build closes the engine, not the shard."""
