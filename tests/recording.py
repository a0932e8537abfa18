"""Steps run on the scripted engine, with every prompt it was given kept."""

import asyncio
from collections.abc import Sequence
from typing import Protocol, Self

import pyarrow as pa

from magpie.chat import ChatFormat
from magpie.engines.base import Completion, Engine, Sampling
from magpie.engines.scripted import ScriptedEngine, ScriptedTokenizer
from magpie.recipe import Script

CHAT = ChatFormat.derive(ScriptedTokenizer())


class Speaking(Protocol):
    """A step that needs a chat format."""

    def with_chat(self, chat: ChatFormat) -> Self: ...

    async def run(self, rows: pa.Table, engine: Engine | None) -> pa.Table: ...


class Recorder:
    """The scripted engine, and every prompt it was given."""

    def __init__(self, **script: float) -> None:
        self.engine = ScriptedEngine(Script.model_validate(script))
        self.model = self.engine.model
        self.asked: list[tuple[str, Sampling]] = []

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        self.asked.append((ScriptedTokenizer().decode(prompt), sampling))
        return await self.engine.complete(prompt, sampling)

    async def close(self) -> None: ...


def base_rows(first: int, count: int, *, out: Sequence[int] = (), **columns: Sequence[str]) -> pa.Table:
    """What a step is given of rows at these positions; those at `out` (from 0) are rejected."""
    rejected = ["before: out" if at in out else None for at in range(count)]
    fixed = {
        "id": [f"r-{first + at:08d}" for at in range(count)],
        "index": pa.array(range(first, first + count), pa.int64()),
        "rejected": pa.array(rejected, pa.string()),
    }
    return pa.table(fixed | columns)


def run(step: Speaking, rows: pa.Table, engine: Engine) -> pa.Table:
    """What the step adds, speaking the scripted engine's format."""
    return asyncio.run(step.with_chat(CHAT).run(rows, engine))
