"""A reward model scores the answers to each instruction; the best and the worst of them become a pair."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from magpie.engines.base import Score, Scorer
from magpie.errors import ChatFormatError
from magpie.recipe import Model, Prefer, Recipe
from magpie.steps.base import REJECTED, ModelUse, RowStep, RowWork, Tools, inner, live, spread

if TYPE_CHECKING:
    from magpie.chat import Transcript


@dataclass(frozen=True, slots=True)
class _Pair:
    """What became of one row's candidates. `chosen` and `rejected` are positions among them, None without a pair."""

    rewards: list[float | None]
    chosen: int | None = None
    rejected: int | None = None
    reason: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PreferStep(RowStep):
    """Adds the pair of each row: the candidate of the highest reward and that of the lowest, of equals the first.

    A candidate cut by length is never chosen: who trains on it would learn to end in the middle of a sentence. It may
    be the rejected one, for an answer that does not come to its end is a worse answer; `rejected_finish_reason` is then
    "length", for a filter that wants whole answers on both sides. Candidates of the same text have one reward, are
    scored once, and are never a pair. Rewards are raw logits.

    A row without a pair is out: "prefer: near tie" when the best reward is not more than the margin above the worst,
    "prefer: only cut answers are better" when one that was cut is, "prefer: fewer than two answers" that differ,
    "prefer: no whole answer", or "prefer: not scored" when the reward model left fewer than two answers, or no whole
    one. `prefer_error` says why a candidate has no reward, whether the row is out or not.
    """

    part: Prefer
    model: Model

    name = "prefer"
    reads = ("instruction", "candidates", "candidate_reasoning", "candidate_finish_reasons")
    adds = pa.schema(
        [
            ("candidate_rewards", pa.list_(pa.float32())),
            ("chosen_reasoning", pa.string()),
            inner("chosen_response", pa.string()),
            ("chosen_reward", pa.float32()),
            ("rejected_reasoning", pa.string()),
            inner("rejected_response", pa.string()),
            ("rejected_reward", pa.float32()),
            ("rejected_finish_reason", pa.string()),
            inner("prefer_error", pa.string()),
            REJECTED,
        ]
    )

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the choice besides the model; how the candidates are written is the affair of their step."""
        return {"margin": self.part.margin}

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[PreferStep, ...]:
        """The step, where the recipe makes pairs."""
        part = recipe.prefer
        return () if part is None else (cls(part, recipe.model(part.reward)),)

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.reward, self.model, "score", "transcript")

    @property
    def credited_as(self) -> str:
        return "reward_model"

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
        """Every conversation at once: the scorer puts those together that go well together."""
        at = live(rows)
        instructions, *lists = (
            rows[name].take(pa.array(at, pa.int64())).to_pylist() for name in PreferStep.reads
        )
        candidates, reasoning, finish_reasons = lists
        pairs = await asyncio.gather(
            *(self._pair(*row, scorer) for row in zip(instructions, candidates, finish_reasons, strict=True))
        )
        columns: dict[str, list[Any]] = {
            "candidate_rewards": [pair.rewards for pair in pairs],
            "prefer_error": [pair.error for pair in pairs],
            REJECTED.name: [pair.reason for pair in pairs],
        }
        for side in ("chosen", "rejected"):
            places = [getattr(pair, side) for pair in pairs]
            columns[f"{side}_reasoning"] = _picked(reasoning, places)
            columns[f"{side}_response"] = _picked(candidates, places)
            columns[f"{side}_reward"] = _picked([pair.rewards for pair in pairs], places)
        columns["rejected_finish_reason"] = _picked(finish_reasons, [pair.rejected for pair in pairs])
        return spread(rows, at, columns, PreferStep.adds)

    async def _pair(
        self, instruction: str, texts: list[str | None], finish_reasons: list[str], scorer: Scorer
    ) -> _Pair:
        whole = [text is not None and end == "stop" for text, end in zip(texts, finish_reasons, strict=True)]
        distinct = list(dict.fromkeys(text for text in texts if text is not None))
        unscored = list[float | None]([None] * len(texts))
        if len(distinct) < 2:
            return _Pair(unscored, reason="prefer: fewer than two answers")
        if not any(whole):
            return _Pair(unscored, reason="prefer: no whole answer")
        given = await asyncio.gather(*(self._score(instruction, text, scorer) for text in distinct))
        scores = dict(zip(distinct, given, strict=True))
        rewards = [None if text is None else scores[text].value for text in texts]
        error = "; ".join(dict.fromkeys(score.error for score in given if score.error)) or None
        can_be_chosen = any(end and reward is not None for end, reward in zip(whole, rewards, strict=True))
        if not can_be_chosen or sum(score.value is not None for score in given) < 2:
            return _Pair(rewards, reason="prefer: not scored", error=error)
        pair = choose(rewards, whole, self.part.margin)
        if pair is None:
            cut_is_better = choose(rewards, [True] * len(rewards), self.part.margin) is not None
            reason = "prefer: only cut answers are better" if cut_is_better else "prefer: near tie"
            return _Pair(rewards, reason=reason, error=error)
        return _Pair(rewards, *pair, error=error)

    async def _score(self, instruction: str, answer: str, scorer: Scorer) -> Score:
        """A reward as it is stored, in 32 bits: what looks equal in the dataset has been a tie."""
        try:
            conversation = self.transcript.ids([instruction, answer])
        except ChatFormatError as error:
            return Score(None, str(error))
        score = await scorer.score(conversation)
        if score.value is None:
            return score
        value = float(np.float32(score.value))
        return Score(value) if math.isfinite(value) else Score(None, f"the reward is {value}")


def choose(rewards: Sequence[float | None], whole: Sequence[bool], margin: float) -> tuple[int, int] | None:
    """The positions of the best candidate and of the worst; None when the best is not more than `margin` above it.

    Rewards are null for what cannot be in a pair. Only what is `whole` can be the best: one of them must have a reward.
    """
    known = {at: reward for at, reward in enumerate(rewards) if reward is not None}
    best = max((at for at in known if whole[at]), key=known.__getitem__)
    worst = min(known, key=known.__getitem__)
    return (best, worst) if known[best] - known[worst] > margin else None


def _picked(lists: Sequence[Sequence[Any]], places: Sequence[int | None]) -> list[Any]:
    """From each list the value at its place; null where there is no place."""
    return [None if at is None else values[at] for values, at in zip(lists, places, strict=True)]
