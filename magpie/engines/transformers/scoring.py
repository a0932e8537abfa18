"""Reward models with transformers alone, for machines where vLLM does not run.

One worker thread holds the model. It takes the longest conversations that wait, as many as fit, and scores them in one
pass: conversations of like length need little padding. The attention mask hides the padding, so a reward does not
depend on the conversations beside it, except in its last bits.
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
"""Most tokens, padding included, in one pass: it bounds the memory of the attention. On a CPU the working set of a
pass should fit into its caches: passes of 2,048 tokens score a third faster than those of 16,384."""


@dataclass(slots=True, eq=False)
class _Request:
    tokens: list[int]
    future: Future[Score] = field(default_factory=Future)

    def answer(self, score: Score) -> None:
        # False when the caller has cancelled: nobody waits for the answer.
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(score)


class TransformersScorer(TransformersThread[_Request]):
    """A Scorer. `model.slots` is the most conversations in a pass.

    Raises ModelError when the model is not a reward model or its weights cannot be loaded.
    """

    _kind = "scorer"
    _network_class = "AutoModelForSequenceClassification"

    def __init__(self, model: Model, files: ModelFiles) -> None:
        self._padding = reward_padding(files, trust_remote_code=model.trust_remote_code)
        super().__init__(model, files)
        self._network.config.use_cache = False
        # Reported as several passes, so that enough conversations wait to choose those of like length from.
        self._info = replace(self._info, slots=8 * self._limit)
        self._start()

    async def score(self, conversation: Sequence[int]) -> Score:
        """The raw logit of one conversation. Raises EngineError only when the scorer as a whole is lost."""
        tokens = without_padding(conversation, self._padding)
        if problem := oversize(len(tokens), self._info.context_length):
            return Score(None, problem)
        request = _Request(tokens)
        self._enqueue(request)
        return await asyncio.wrap_future(request.future)

    def _run(self) -> None:
        while requests := self._take():
            self._active = requests
            try:
                rewards = self._pass([request.tokens for request in requests])
            except Exception as error:
                self._shrink(error)
                continue
            for request, reward in zip(requests, rewards, strict=True):
                request.answer(Score(reward))

    def _take(self) -> list[_Request]:
        """The longest conversations that fit into one pass; none when the scorer is closed."""
        with self._changed:
            while not (self._closed or self._waiting):
                self._changed.wait()
            if self._closed:
                return []
            # Sorted, so that a pass holds conversations of like length. The first is the longest and sets the width.
            self._waiting.sort(key=lambda request: -len(request.tokens))
            most = _CPU_PASS_TOKENS if self._device == "cpu" else _PASS_TOKENS
            fit = max(1, min(self._limit, most // len(self._waiting[0].tokens)))
            requests, self._waiting = self._waiting[:fit], self._waiting[fit:]
            return requests

    def _pass(self, conversations: Sequence[Sequence[int]]) -> list[float]:
        """The rewards of these conversations, in one pass."""
        import torch

        padding, longest = self._padding, max(map(len, conversations))
        if padding is None:
            # transformers reads the reward at the last token that is not padding, so any id will do that no
            # conversation ends with.
            ends = {tokens[-1] for tokens in conversations}
            padding = next(number for number in range(len(ends) + 1) if number not in ends)
            self._network.config.get_text_config().pad_token_id = padding
        # On the right, where such heads look for the padding.
        ids = torch.full((len(conversations), longest), padding)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(conversations):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        logits = self._network(input_ids=ids.to(self._device), attention_mask=mask.to(self._device)).logits
        return [float(reward) for reward in logits.reshape(len(conversations), -1)[:, 0].float().cpu()]

    def _answer_too_long(self, row: _Request) -> None:
        row.answer(Score(None, f"out of memory at {len(row.tokens)} tokens; lower context_length"))
