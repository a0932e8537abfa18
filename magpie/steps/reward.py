"""A reward model scores each response, in its own chat template and as its raw logit."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie.engines.base import Score, Scorer
from magpie.recipe import Model, Recipe, Reward
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import (
    ModelUse,
    RowStep,
    RowWork,
    Tools,
    column,
    documents_in,
    first_messages,
    judged_or_not,
    live,
    score_answer,
    spread,
    values_at,
)

if TYPE_CHECKING:
    from magpie.chat import Transcript

_REWARDS = {
    field.name: field
    for field in (
        column(
            "instruct_reward",
            pa.float32(),
            "The reward model's score of the response, as a raw logit.",
            published="instruct_reward",
        ),
        column("base_reward", pa.float32(), "The score of the base model's answer."),
        column("reward_difference", pa.float32(), "instruct_reward less base_reward."),
    )
}


@dataclass(frozen=True, slots=True)
class RewardStep(RowStep):
    """Adds `instruct_reward`, the reward of the first response, as in the published datasets.

    With a baseline it also adds `base_reward`, the reward of the base model's answer, and `reward_difference`, the
    first less the second.

    No row is rejected: where a reward is null, `reward_error` says why. A conversation that is too long for the model
    has no reward: it is not cut, since the reward of a cut answer is not that of the answer.
    """

    part: Reward
    model: Model
    documents: tuple[str, ...] = ()

    name = "reward"
    outcome_columns = ("reward_error",)

    @classmethod
    def plan(cls, recipe: Recipe, columns: pa.Schema) -> tuple[RewardStep, ...]:
        """The step, where the recipe asks for rewards."""
        part = recipe.reward
        if part is None:
            return ()
        return (cls(part, recipe.model(part.model), documents_in(columns)),)

    @property
    def reads(self) -> tuple[str, ...]:
        """The instruction, the document that it is about, and the answers to score."""
        return ("instruction", *self.documents, *self.scored)

    @property
    def scored(self) -> tuple[str, ...]:
        """The columns of the answers, the base model's last."""
        return ("response", *(("base_response",) if self.part.baseline else ()))

    @property
    def adds(self) -> pa.Schema:
        """The rewards, and why they are null where they are."""
        base = ("base_reward", "reward_difference") if self.part.baseline else ()
        error = column(
            "reward_error", pa.string(), "Why a reward of the row is null; null where none is missing."
        )
        return pa.schema([*(_REWARDS[name] for name in ("instruct_reward", *base)), error])

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model."""
        # The settings of the baseline are those of the step that writes the base model's answers.
        return {"baseline": self.part.baseline is not None}

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "score", "transcript")

    @property
    def requests(self) -> tuple[Request, ...]:
        conversation = 2 * lengths.TEMPLATE + lengths.INSTRUCTION + lengths.RESPONSE
        return (Request(conversation, 0, count=2 if self.part.baseline else 1),)

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
        """One request for each answer, all at once."""
        # The scorer makes the batches: it can put conversations of equal length together.
        at = live(rows)
        instructions = first_messages(rows, at)
        answers = [values_at(rows, name, at) for name in self.step.scored]
        scores = await asyncio.gather(
            *(
                self._score(instruction, answer, scorer)
                for answers_of_one in answers
                for instruction, answer in zip(instructions, answers_of_one, strict=True)
            )
        )
        # All responses stand before all answers of the base model.
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

    async def _score(self, instruction: str, answer: str | None, scorer: Scorer) -> Score:
        # A request to the base model that failed; a row whose response failed is out before it comes here.
        if answer is None:
            return Score(None, "there is no answer")
        return await score_answer(instruction, answer, self.transcript, scorer)


def _difference(first: Score, base: Score) -> float | None:
    return None if first.value is None or base.value is None else first.value - base.value


def _errors(first: Score, base: Score) -> str | None:
    errors = (first.error, base.error and f"baseline: {base.error}")
    return "; ".join(filter(None, errors)) or None
