"""A reward model scores each response, in its own chat template and as its raw logit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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

    A row that cannot be scored stays in: its reward is null and `reward_error` says why. A conversation too long for
    the model is such a row: what is cut would be scored as it is not.
    """

    part: Reward
    transcript: Transcript | None = None

    name = "reward"
    scores = True
    reads = ("instruction", "response")
    adds = pa.schema([("instruct_reward", pa.float32()), ("reward_error", pa.string())])
    version = 1

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model."""
        return self.part.model_dump(mode="json", exclude={"model"})

    def with_transcript(self, transcript: Transcript) -> RewardStep:
        """The same step, showing conversations as this model reads them."""
        return replace(self, transcript=transcript)

    async def run(self, rows: pa.Table, engine: Engine | Scorer | None) -> pa.Table:
        """Every conversation at once: the scorer puts those together that go well together."""
        assert isinstance(engine, Scorer)
        at = live(rows)
        chosen = rows.take(pa.array(at, pa.int64()))
        turns = zip(*(chosen[name].to_pylist() for name in self.reads), strict=True)
        scores = await asyncio.gather(*(self._score(pair, engine) for pair in turns))
        columns: dict[str, Sequence[Any]] = {
            "instruct_reward": [score.value for score in scores],
            "reward_error": [score.error for score in scores],
        }
        return spread(rows, at, columns, self.adds)

    async def _score(self, turns: tuple[str, str], scorer: Scorer) -> Score:
        assert self.transcript is not None
        try:
            conversation = self.transcript.ids(turns)
        except ChatFormatError as error:
            return Score(None, str(error))
        return await scorer.score(conversation)
