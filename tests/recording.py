"""Steps run on the scripted engine, with every prompt it was given kept."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from magpie.chat import ChatFormat, PlainText, Transcript
from magpie.engines.base import Completion, FinishReason, Sampling
from magpie.engines.scripted import ScriptedEngine, ScriptedTokenizer
from magpie.neighbors.vectors import ProgressCallback
from magpie.plan import BuildTools
from magpie.recipe import Model, Script
from magpie.steps.base import GlobalStep, GlobalWork, PreparedWork, RowStep, RowWork, Tools

SCRIPTED = Model(model="scripted", engine="scripted")
CHAT = ChatFormat.derive(ScriptedTokenizer())
TRANSCRIPT = Transcript.derive(ScriptedTokenizer())
PLAIN = PlainText((), ScriptedTokenizer())


class Speaking(BuildTools):
    """The tools of a build, but every model is spoken to alike: in the formats given, else the scripted engine's."""

    def __init__(
        self, chat: Any = CHAT, *, transcript: Transcript = TRANSCRIPT, plain_text: PlainText = PLAIN
    ) -> None:
        super().__init__()
        self._chat, self._transcript, self._plain_text = chat, transcript, plain_text

    def chat(self, model: Model) -> Any:
        return self._chat

    def transcript(self, model: Model) -> Transcript:
        return self._transcript

    def plain_text(self, model: Model) -> PlainText:
        return self._plain_text


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


class Thinker(Recorder):
    """Writes as the scripted engine does, and reasons before each answer; it never ends when told to go on and on."""

    def __init__(self, *, closes: bool = True, finish_reason: FinishReason = "stop") -> None:
        super().__init__()
        self.closes, self.finish_reason = closes, finish_reason

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        done = await super().complete(prompt, sampling)
        if not self.asked[-1][0].endswith("assistant\n"):
            return done
        text = f"<think>\nLet me see.\n</think>\n\n{done.text}" if self.closes else "<think>\nLet me see"
        return replace(done, text=text, finish_reason=self.finish_reason)


def base_rows(first: int, count: int, *, out: Sequence[int] = (), **columns: Any) -> pa.Table:
    """What a step is given of rows at these positions; those at `out` (from 0) are rejected."""
    rejected = ["before: out" if at in out else None for at in range(count)]
    fixed = {
        "id": pa.array([f"r-{first + at:08d}" for at in range(count)], pa.string()),
        "index": pa.array(range(first, first + count), pa.int64()),
        "rejected": pa.array(rejected, pa.string()),
    }
    return pa.table(fixed | columns)


def text_rows(*instructions: str | None) -> pa.Table:
    """What a step is given of rows with these instructions; None is a row that is rejected."""
    out = [at for at, text in enumerate(instructions) if text is None]
    return base_rows(0, len(instructions), out=out, instruction=pa.array(instructions, pa.string()))


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
        result = asyncio.run(_run_and_close(work, rows, engine))
    assert result.schema.equals(pa.schema([("id", pa.string()), *step.adds])), result.schema
    assert result["id"].to_pylist() == rows["id"].to_pylist()
    return result


async def _run_and_close(work: RowWork[Any], rows: pa.Table, engine: Any) -> pa.Table:
    result = await work.run(rows, engine)
    if isinstance(work, PreparedWork):
        await work.close()
    return result
