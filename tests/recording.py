"""Steps run on the scripted engine, with every prompt it was given kept."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from magpie.chat import ChatFormat, PlainText, Transcript
from magpie.engines.base import Completion, Sampling
from magpie.engines.scripted import ScriptedEngine, ScriptedTokenizer
from magpie.neighbors.vectors import ProgressCallback
from magpie.plan import BuildTools
from magpie.recipe import Model, Script
from magpie.steps.base import GlobalStep, GlobalWork, Instructions, PreparedWork, RowStep, Tools

SCRIPTED = Model(model="scripted", engine="scripted")
CHAT = ChatFormat.derive(ScriptedTokenizer())


@dataclass(frozen=True, slots=True)
class Speaking:
    """Tools that speak to every model alike: in the formats given, by default those of the scripted engine."""

    chat_format: ChatFormat = CHAT
    finished: Transcript = field(default_factory=lambda: Transcript.derive(ScriptedTokenizer()))
    plain: PlainText = PlainText((), ScriptedTokenizer())

    def chat(self, _: Model) -> ChatFormat:
        return self.chat_format

    def transcript(self, _: Model) -> Transcript:
        return self.finished

    def plain_text(self, _: Model) -> PlainText:
        return self.plain

    def instructions(self, name: str) -> Instructions:
        return BuildTools().instructions(name)


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
        "id": pa.array([f"r-{first + at:08d}" for at in range(count)], pa.string()),
        "index": pa.array(range(first, first + count), pa.int64()),
        "rejected": pa.array(rejected, pa.string()),
    }
    return pa.table(fixed | columns)


def run(
    step: RowStep | GlobalStep,
    rows: pa.Table,
    engine: Any = None,
    *,
    tools: Tools | None = None,
    on_progress: ProgressCallback = lambda *_: None,
) -> pa.Table:
    """What the step adds, bound with the tools of a build or with `tools`, and held to what it says it adds."""
    work = step.bind(tools or BuildTools())
    if isinstance(work, GlobalWork):
        result = work.run_all(rows, on_progress)
    else:
        assert not isinstance(work, PreparedWork), "who loads something lets it go: bind it, and close it"
        result = asyncio.run(work.run(rows, engine))
    assert result.schema.equals(pa.schema([("id", pa.string()), *step.adds])), result.schema
    assert result["id"].to_pylist() == rows["id"].to_pylist()
    return result
