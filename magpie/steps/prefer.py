"""A reward model scores the candidates of each instruction; the best and the worst of them become a pair."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from magpie.engines.base import Score, Scorer
from magpie.recipe import Model, Prefer, Recipe
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import (
    REJECTED,
    ModelUse,
    RowStep,
    RowWork,
    Tools,
    column,
    documents_in,
    first_messages,
    inner,
    live,
    score_answer,
    spread,
    values_at,
)

if TYPE_CHECKING:
    from magpie.chat import Transcript

_OF_CANDIDATES = ("candidates", "candidate_reasoning", "candidate_finish_reasons")


@dataclass(frozen=True, slots=True)
class _Pair:
    """The result for one row. `chosen` and `rejected` are positions among its candidates, None without a pair."""

    rewards: list[float | None]
    chosen: int | None = None
    rejected: int | None = None
    reason: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PreferStep(RowStep):
    """Adds a pair for each row: the candidates with the highest and the lowest reward, of equal ones the first.

    A candidate cut by length is never chosen, but it may be the rejected one. `rejected_finish_reason` is then
    "length", for filters that want whole answers on both sides. Equal candidates are scored once and are never a pair.
    Rewards are raw logits.

    A row without a pair is rejected, for one of these reasons:

    - "prefer: fewer than two answers": fewer than two different ones;
    - "prefer: no whole answer": all were cut;
    - "prefer: not scored": the reward model scored fewer than two answers, or no whole one;
    - "prefer: only cut answers are better": an answer that was cut is more than the margin above the worst, and no
      whole one is;
    - "prefer: near tie": no answer is more than the margin above the worst.

    `prefer_error` says why a candidate has no reward, whether the row is rejected or not.
    """

    part: Prefer
    model: Model
    documents: tuple[str, ...] = ()

    name = "prefer"
    adds = pa.schema(
        [
            column(
                "candidate_rewards", pa.list_(pa.float32()), "The reward of each candidate, as a raw logit."
            ),
            column("chosen_reasoning", pa.string(), "What the model reasoned before the chosen answer."),
            inner("chosen_response", pa.string(), "The candidate with the highest reward that is whole."),
            column("chosen_reward", pa.float32(), "The reward of the chosen answer."),
            column("rejected_reasoning", pa.string(), "What the model reasoned before the rejected answer."),
            inner("rejected_response", pa.string(), "The candidate with the lowest reward."),
            column("rejected_reward", pa.float32(), "The reward of the rejected answer."),
            column(
                "rejected_finish_reason",
                pa.string(),
                "How the rejected answer ended, as response_finish_reason; the chosen one always by itself.",
            ),
            inner("prefer_error", pa.string(), "Why candidates have no reward; null where all have one."),
            REJECTED,
        ]
    )

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the choice besides the model."""
        # The other settings of the section are those of the step `candidates`, which writes the answers.
        return {"margin": self.part.margin}

    @classmethod
    def plan(cls, recipe: Recipe, columns: pa.Schema) -> tuple[PreferStep, ...]:
        """The step, where the recipe makes pairs."""
        part = recipe.prefer
        return () if part is None else (cls(part, recipe.model(part.reward), documents_in(columns)),)

    @property
    def reads(self) -> tuple[str, ...]:
        """The instruction, the document that it is about, and the candidates."""
        return ("instruction", *_OF_CANDIDATES, *self.documents)

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.reward, self.model, "score", "transcript")

    @property
    def credited_as(self) -> str:
        return "reward_model"

    @property
    def requests(self) -> tuple[Request, ...]:
        conversation = 2 * lengths.TEMPLATE + lengths.INSTRUCTION + lengths.RESPONSE
        return (Request(conversation, 0, count=self.part.responses),)

    @property
    def bytes_per_row(self) -> int:
        return 800

    def bind(self, tools: Tools) -> PairChooser:
        return PairChooser(self.part, tools.transcript(self.model))


@dataclass(frozen=True, slots=True)
class PairChooser(RowWork[Scorer]):
    """Has candidates scored, written as the reward model reads them, and chooses the pairs."""

    part: Prefer
    transcript: Transcript

    async def run(self, rows: pa.Table, scorer: Scorer) -> pa.Table:
        """One request for each candidate, all at once."""
        # The scorer makes the batches: it can put conversations of equal length together.
        at = live(rows)
        instructions = first_messages(rows, at)
        candidates, reasoning, finish_reasons = (values_at(rows, name, at) for name in _OF_CANDIDATES)
        pairs = await asyncio.gather(
            *(self._pair(*row, scorer) for row in zip(instructions, candidates, finish_reasons, strict=True))
        )
        columns: dict[str, list[Any]] = {
            "candidate_rewards": [pair.rewards for pair in pairs],
            "prefer_error": [pair.error for pair in pairs],
            REJECTED.name: [pair.reason for pair in pairs],
        }
        for side in ("chosen", "rejected"):
            positions = [getattr(pair, side) for pair in pairs]
            columns[f"{side}_reasoning"] = _picked(reasoning, positions)
            columns[f"{side}_response"] = _picked(candidates, positions)
            columns[f"{side}_reward"] = _picked([pair.rewards for pair in pairs], positions)
        # The chosen answer needs no such column: it is "stop" in every pair.
        columns["rejected_finish_reason"] = _picked(finish_reasons, [pair.rejected for pair in pairs])
        return spread(rows, at, columns, PreferStep.adds)

    async def _pair(
        self, instruction: str, texts: list[str | None], finish_reasons: list[str], scorer: Scorer
    ) -> _Pair:
        """The rewards of one row's candidates and the pair, or the reason why there is none."""
        # Only a whole answer may be chosen: a model trained on one that was cut would learn to stop in the middle of a
        # sentence. As the rejected one it is right: an answer without its end is a worse answer.
        whole = [
            text is not None and finish_reason == "stop"
            for text, finish_reason in zip(texts, finish_reasons, strict=True)
        ]
        distinct = list(dict.fromkeys(text for text in texts if text is not None))
        unscored = list[float | None]([None] * len(texts))
        if len(distinct) < 2:
            return _Pair(unscored, reason="prefer: fewer than two answers")
        if not any(whole):
            return _Pair(unscored, reason="prefer: no whole answer")
        scores = await asyncio.gather(*(self._score(instruction, text, scorer) for text in distinct))
        score_of = dict(zip(distinct, scores, strict=True))
        rewards = [None if text is None else score_of[text].value for text in texts]
        # Many candidates fail for the same reason: it is said once.
        error = "; ".join(dict.fromkeys(score.error for score in scores if score.error)) or None
        can_be_chosen = any(
            is_whole and reward is not None for is_whole, reward in zip(whole, rewards, strict=True)
        )
        if not can_be_chosen or sum(score.value is not None for score in scores) < 2:
            return _Pair(rewards, reason="prefer: not scored", error=error)
        pair = choose(rewards, whole, self.part.margin)
        if pair is None:
            # The same choice, with answers that were cut allowed as the best.
            cut_is_better = choose(rewards, [True] * len(rewards), self.part.margin) is not None
            reason = "prefer: only cut answers are better" if cut_is_better else "prefer: near tie"
            return _Pair(rewards, reason=reason, error=error)
        return _Pair(rewards, *pair, error=error)

    async def _score(self, instruction: str, answer: str, scorer: Scorer) -> Score:
        score = await score_answer(instruction, answer, self.transcript, scorer)
        if score.value is None:
            return score
        # As it is stored, in 32 bits: rewards that are equal in the dataset were a tie in the choice, too.
        value = float(np.float32(score.value))
        return Score(value) if math.isfinite(value) else Score(None, f"the reward is {value}")


def choose(rewards: Sequence[float | None], whole: Sequence[bool], margin: float) -> tuple[int, int] | None:
    """The positions of the best candidate and of the worst; None when the best is not more than `margin` above it.

    Rewards are null for candidates that cannot be in a pair. Only a `whole` candidate can be the best: at least one of
    these must have a reward.
    """
    scored = {position: reward for position, reward in enumerate(rewards) if reward is not None}
    # `max` and `min` return the first of equal ones, so that equal runs choose equal pairs.
    best = max((position for position in scored if whole[position]), key=scored.__getitem__)
    worst = min(scored, key=scored.__getitem__)
    # Strictly more: with a margin of 0 a tie is no pair, and so the best and the worst are never the same answer.
    return (best, worst) if scored[best] - scored[worst] > margin else None


def _picked(lists: Sequence[Sequence[Any]], positions: Sequence[int | None]) -> list[Any]:
    """From each list the value at its position; null where there is no position."""
    return [
        None if position is None else values[position]
        for values, position in zip(lists, positions, strict=True)
    ]
