"""What every engine is given and gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one completion is drawn.

    `temperature` 0 is greedy. `top_k` 0 and `min_p` 0 are off. `stop_ids` are token ids and `stop` are strings;
    generation ends before either and neither is part of the text. `schema` is a JSON schema, as JSON text, that the
    completion must satisfy; every string in it should have a `maxLength`, or the model may never close it.
    """

    max_tokens: int
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine wrote for one prompt.

    `token_count` counts every token generated, a stop token included. Special tokens that are not stops stay visible
    in `text`, so that a leaked role header can be seen. `error` says what went wrong when `finish_reason` is "error".
    """

    text: str
    token_count: int
    finish_reason: FinishReason
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a loaded model.

    `context_length` is in tokens, prompt and completion together. `slots` is how many completions the engine works on
    at once: keep more than that waiting and it never idles.
    """

    name: str
    revision: str
    engine: str
    context_length: int
    slots: int


class Engine(Protocol):
    """Turns token ids into text. Knows nothing of rows, recipes or files.

    `complete` never raises for one prompt's failure: it returns a Completion whose finish_reason is "error". It raises
    EngineError only when the engine as a whole is lost. All calls come from one asyncio event loop.
    """

    @property
    def model(self) -> ModelInfo: ...

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion: ...

    async def close(self) -> None: ...
