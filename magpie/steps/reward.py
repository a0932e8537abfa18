"""A reward model scores each response, in its own chat template and as its raw logit."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie.engines.base import Score, Scorer
from magpie.errors import ChatFormatError
from magpie.recipe import Reward
from magpie.steps.base import live, spread

if TYPE_CHECKING:
    from magpie.chat import Transcript
    from magpie.engines.base import Engine


@dataclass(frozen=True, slots=True)
class RewardStep:
    """Adds `instruct_reward`, the reward of the first response, as the published sets have it.

    With a baseline it adds `base_reward` and `reward_difference`, the first less the second.
    A row that cannot be scored stays in: its reward is null and `reward_error` says why. A conversation too long for
    the model is such a row: what is cut would be scored as it is not.
    """

    part: Reward
    transcript: Transcript | None = None

    name = "reward"
    scores = True
    version = 1

    @property
    def reads(self) -> tuple[str, ...]:
        """What is scored, the base model's answer last."""
        return ("instruction", "response", *(("base_response",) if self.part.baseline else ()))

    @property
    def adds(self) -> pa.Schema:
        """The rewards, and what is wrong with those that are null."""
        base = ("base_reward", "reward_difference") if self.part.baseline else ()
        rewards = [(name, pa.float32()) for name in ("instruct_reward", *base)]
        return pa.schema([*rewards, ("reward_error", pa.string())])

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model; how the base model answers is the affair of its own step."""
        return {"baseline": self.part.baseline is not None}

    def with_transcript(self, transcript: Transcript) -> RewardStep:
        """The same step, showing conversations as this model reads them."""
        return replace(self, transcript=transcript)

    async def run(self, rows: pa.Table, engine: Engine | Scorer | None) -> pa.Table:
        """Every conversation at once: the scorer puts those together that go well together."""
        assert isinstance(engine, Scorer)
        at = live(rows)
        chosen = rows.take(pa.array(at, pa.int64()))
        instructions, *answers = (chosen[name].to_pylist() for name in self.reads)
        turns = [pair for texts in answers for pair in zip(instructions, texts, strict=True)]
        scores = await asyncio.gather(*(self._score(pair, engine) for pair in turns))
        first, base = scores[: len(at)], scores[len(at) :]
        columns: dict[str, list[Any]] = {
            "instruct_reward": [score.value for score in first],
            "reward_error": [score.error for score in first],
        }
        if self.part.baseline is not None:
            pairs = list(zip(first, base, strict=True))
            columns["base_reward"] = [score.value for score in base]
            columns["reward_difference"] = [_difference(*pair) for pair in pairs]
            columns["reward_error"] = [_errors(*pair) for pair in pairs]
        return spread(rows, at, columns, self.adds)

    async def _score(self, turns: tuple[str, str | None], scorer: Scorer) -> Score:
        assert self.transcript is not None
        instruction, answer = turns
        if answer is None:
            return Score(None, "there is no answer")
        try:
            conversation = self.transcript.ids([instruction, answer])
        except ChatFormatError as error:
            return Score(None, str(error))
        score = await scorer.score(conversation)
        if score.value is None or math.isfinite(score.value):
            return score
        return Score(None, f"the reward is {score.value}")


def _difference(first: Score, base: Score) -> float | None:
    return None if first.value is None or base.value is None else first.value - base.value


def _errors(first: Score, base: Score) -> str | None:
    named = (first.error, base.error and f"baseline: {base.error}")
    return "; ".join(filter(None, named)) or None
