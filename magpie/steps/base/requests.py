"""Requests to an engine or a scorer: one for each row or answer, all sent at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from magpie.engines.base import Completion, Sampling, Score, Scorer
from magpie.errors import ChatFormatError

if TYPE_CHECKING:
    from magpie.chat import ChatFormat, Transcript
    from magpie.engines.base import Engine
    from magpie.recipe import Prefer, Respond
    from magpie.recipe.base import Part

_DRAWN_BY = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "stop_repetition")
_LARGEST = 1e38  # a little less than the largest number of 32 bits: a difference of two still fits


async def complete_each(
    engine: Engine, prompts: Iterable[Sequence[int]], samplings: Iterable[Sampling]
) -> list[Completion]:
    """The completion of each prompt, drawn by the sampling in the same place, in the order of the prompts."""
    # The engine schedules by itself: it needs many waiting requests, and no batch that ends with its slowest row.
    return await asyncio.gather(
        *(engine.complete(prompt, sampling) for prompt, sampling in zip(prompts, samplings, strict=True))
    )


def drawn_by(part: Part, seed: int, engine: Engine, **own: Any) -> Sampling:
    """How a text is drawn: by those settings of a part of the recipe that `Sampling` has, under the names that it has.

    `own` is what the step says besides, such as what ends the text; where both say it, the step's is taken.
    """
    settings = {name: getattr(part, name) for name in _settings_of(type(part))}
    if "stop_repetition" in settings:
        settings["stop_repetition"] = engine.model.stops_repetition(settings["stop_repetition"])
    return Sampling(seed=seed, **(settings | own))


@cache  # it is asked for each request
def _settings_of(kind: type[Part]) -> tuple[str, ...]:
    return tuple(name for name in _DRAWN_BY if name in kind.model_fields)


def answer_sampling(part: Respond | Prefer, chat: ChatFormat, engine: Engine, seed: int) -> Sampling:
    """How one answer to an instruction is drawn, by the settings of the step that writes it."""
    return drawn_by(part, seed, engine, stop_ids=chat.answer_stop_ids, stop=chat.stop_texts)


async def score_answer(instruction: str, answer: str, transcript: Transcript, scorer: Scorer) -> Score:
    """The reward of one answer: a finite number, or null and why there is none."""
    try:
        conversation = transcript.ids([instruction, answer])
    except ChatFormatError as error:
        return Score(None, str(error))
    score = await scorer.score(conversation)
    # NaN compares false with everything: a filter or a choice of pairs would go wrong without an error.
    # A number too large for the column's 32 bits would be infinite there.
    if score.value is None or abs(score.value) <= _LARGEST:
        return score
    return Score(None, f"the reward is {score.value}")
