"""A reward model scores each response, in its own chat template and as its raw logit."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie.engines.base import Score, Scorer
from magpie.errors import ChatFormatError
from magpie.recipe import Model, Recipe, Reward
from magpie.steps.base import ModelUse, RowStep, RowWork, Tools, judged_or_not, live, spread

if TYPE_CHECKING:
    from magpie.chat import Transcript


@dataclass(frozen=True, slots=True)
class RewardStep(RowStep):
    """Adds `instruct_reward`, the reward of the first response, as the published sets have it.

    With a baseline it adds `base_reward` and `reward_difference`, the first less the second.
    A row that cannot be scored stays in: its reward is null and `reward_error` says why. A conversation too long for
    the model is such a row: what is cut would be scored as it is not.
    """

    part: Reward
    model: Model

    name = "reward"
    outcome_columns = ("reward_error",)

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[RewardStep, ...]:
        """The step, where the recipe asks for rewards."""
        part = recipe.reward
        return () if part is None else (cls(part, recipe.model(part.model)),)

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

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "score", "transcript")

    @property
    def credited_as(self) -> str:
        return "reward_model"

    def outcomes(self, columns: Mapping[str, Any]) -> list[str]:
        return judged_or_not(columns["reward_error"])

    def bind(self, tools: Tools) -> Rewarder:
        return Rewarder(self, tools.transcript(self.model))


@dataclass(frozen=True, slots=True)
class Rewarder(RowWork[Scorer]):
    """Has conversations scored, written as the reward model reads them."""

    step: RewardStep
    transcript: Transcript

    async def run(self, rows: pa.Table, scorer: Scorer) -> pa.Table:
        """Every conversation at once: the scorer puts those together that go well together."""
        at = live(rows)
        chosen = rows.take(pa.array(at, pa.int64()))
        instructions, *answers = (chosen[name].to_pylist() for name in self.step.reads)
        turns = [pair for texts in answers for pair in zip(instructions, texts, strict=True)]
        scores = await asyncio.gather(*(self._score(pair, scorer) for pair in turns))
        first, base = scores[: len(at)], scores[len(at) :]
        columns: dict[str, list[Any]] = {
            "instruct_reward": [score.value for score in first],
            "reward_error": [score.error for score in first],
        }
        if self.step.part.baseline is not None:
            pairs = list(zip(first, base, strict=True))
            columns["base_reward"] = [score.value for score in base]
            columns["reward_difference"] = [_difference(*pair) for pair in pairs]
            columns["reward_error"] = [_errors(*pair) for pair in pairs]
        return spread(rows, at, columns, self.step.adds)

    async def _score(self, turns: tuple[str, str | None], scorer: Scorer) -> Score:
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
