"""Reward models with transformers alone, for machines where vLLM does not run.

One worker thread holds the model. It takes the longest conversations that wait, as many as fit, and scores them in one
pass: neighbours in length need little padding. The attention mask hides the padding, so a conversation's reward is the
one it has alone, but for the last bits of the arithmetic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from magpie.engines.base import Score, oversize, reward_padding, without_padding
from magpie.engines.transformers.thread import TransformersThread

if TYPE_CHECKING:
    from magpie.models import ModelFiles
    from magpie.recipe import Model

_PASS_TOKENS = 16_384
_CPU_PASS_TOKENS = 2048
"""Most tokens, padding included, in one pass: it bounds the memory of the attention. On a CPU what a pass works on
should stay in its caches: passes of 2,048 tokens score a third faster than those of 16,384."""


@dataclass(slots=True, eq=False)
class _Waiting:
    tokens: list[int]
    future: Future[Score] = field(default_factory=Future)

    def settle(self, score: Score) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(score)


class TransformersScorer(TransformersThread[_Waiting]):
    """A Scorer. `model.slots` is the most conversations in a pass.

    Raises ModelError when the model is no reward model or its weights cannot be loaded.
    """

    _kind = "scorer"
    _network_class = "AutoModelForSequenceClassification"

    def __init__(self, model: Model, files: ModelFiles) -> None:
        self._padding = reward_padding(files, trust_remote_code=model.trust_remote_code)
        super().__init__(model, files)
        self._network.config.use_cache = False
        # More than one pass waits, so that neighbours in length can be chosen.
        self._info = replace(self._info, slots=8 * self._limit)
        self._begin()

    async def score(self, conversation: Sequence[int]) -> Score:
        """The raw logit of one conversation. Raises EngineError only when the scorer as a whole is lost."""
        tokens = without_padding(conversation, self._padding)
        if trouble := oversize(len(tokens), self._info.context_length):
            return Score(None, trouble)
        waiting = _Waiting(tokens)
        self._put(waiting)
        return await asyncio.wrap_future(waiting.future)

    def _run(self) -> None:
        while taken := self._take():
            self._held = taken
            try:
                rewards = self._pass([waiting.tokens for waiting in taken])
            except Exception as error:
                self._make_room(error)
                continue
            for waiting, reward in zip(taken, rewards, strict=True):
                waiting.settle(Score(reward))

    def _take(self) -> list[_Waiting]:
        """The longest conversations that fit into one pass; none when the scorer is closed."""
        with self._changed:
            while not (self._closed or self._waiting):
                self._changed.wait()
            if self._closed:
                return []
            self._waiting.sort(key=lambda waiting: -len(waiting.tokens))
            most = _CPU_PASS_TOKENS if self._device == "cpu" else _PASS_TOKENS
            fit = max(1, min(self._limit, most // len(self._waiting[0].tokens)))
            taken, self._waiting = self._waiting[:fit], self._waiting[fit:]
            return taken

    def _pass(self, conversations: Sequence[Sequence[int]]) -> list[float]:
        """The rewards of conversations in one pass, padded on the right, as heads that look for the end want it."""
        import torch

        padding, longest = self._padding, max(map(len, conversations))
        if padding is None:
            ends = {tokens[-1] for tokens in conversations}
            padding = next(number for number in range(len(ends) + 1) if number not in ends)
            self._network.config.get_text_config().pad_token_id = padding
        ids = torch.full((len(conversations), longest), padding)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(conversations):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        logits = self._network(input_ids=ids.to(self._device), attention_mask=mask.to(self._device)).logits
        return [float(reward) for reward in logits.reshape(len(conversations), -1)[:, 0].float().cpu()]

    def _too_long(self, row: _Waiting) -> None:
        row.settle(Score(None, f"out of memory at {len(row.tokens)} tokens; lower context_length"))
