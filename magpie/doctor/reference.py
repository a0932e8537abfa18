"""A small model as a reader: how likely it finds a text as a user's message, and as the beginning of a document.

It is SmolLM2-135M-Instruct, the embedded model, whose pre-query template makes the one, and whose end-of-text token the
other. It reads English.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from magpie.chat import ChatFormat
from magpie.doctor.judge_check import shuffle_words
from magpie.models import resolve
from magpie.recipe import Model

MODEL = "demo"
_BATCH = 16
_MOST_TOKENS = 128  # of a text: what a message is shows early


@dataclass(frozen=True, slots=True)
class Read:
    """Mean natural logarithms of the probability of a token of the text.

    `as_message` after the pre-query template, `shuffled` there too but with its words in another order, `as_document`
    behind the token that separates documents.
    """

    as_message: float
    shuffled: float
    as_document: float

    @property
    def order(self) -> float:
        """How much likelier a token is in the order in which the words stand."""
        return self.as_message - self.shuffled

    @property
    def speaker(self) -> float:
        """How much likelier a token is from a user than in a document."""
        return self.as_message - self.as_document


class Reference:
    """The model, loaded. Raises ModelError where its package is not installed."""

    def __init__(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        model = Model(model=MODEL)
        files = resolve(model)
        self._chat = ChatFormat.from_model(model, files)
        self._torch = torch
        self._network: Any = AutoModelForCausalLM.from_pretrained(files.path, dtype=torch.float32).eval()
        special = self._chat.tokenizer.special_tokens
        self._document_ids = [special.get("<|endoftext|>", self._chat.pre_query_ids[0])]

    def read(self, texts: Sequence[str], *, seed: int = 42) -> list[Read]:
        """Each text read three times. Texts without a token are not to be given."""
        encode, before = self._chat.encode, list(self._chat.pre_query_ids)
        plain = [encode(text)[:_MOST_TOKENS] for text in texts]
        mixed = [encode(shuffle_words(text, seed + at))[:_MOST_TOKENS] for at, text in enumerate(texts)]
        as_message = self._means([(before, ids) for ids in plain])
        shuffled = self._means([(before, ids) for ids in mixed])
        as_document = self._means([(self._document_ids, ids) for ids in plain])
        return [Read(*means) for means in zip(as_message, shuffled, as_document, strict=True)]

    def reply_gains(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """For each message and answer, how much likelier a token is as a reply to the message than as more of it.

        In natural logarithms. Texts without a token are not to be given.
        """
        encode, before = self._chat.encode, list(self._chat.pre_query_ids)
        answers = [encode(answer)[:_MOST_TOKENS] for _, answer in pairs]
        replies = [
            (self._chat.prompt([message]), ids) for (message, _), ids in zip(pairs, answers, strict=True)
        ]
        more = [(before + encode(message), ids) for (message, _), ids in zip(pairs, answers, strict=True)]
        return [reply - same for reply, same in zip(self._means(replies), self._means(more), strict=True)]

    def _means(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        """The mean logarithm for the second part of each pair, behind the first."""
        means = np.zeros(len(pairs))
        # Those of one length together: what is padded costs as much as what is not.
        order = sorted(range(len(pairs)), key=lambda at: len(pairs[at][1]))
        for first in range(0, len(order), _BATCH):
            at = order[first : first + _BATCH]
            means[at] = self._batch([pairs[position] for position in at])
        return [float(mean) for mean in means]

    def _batch(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        torch = self._torch
        rows = [before + ids for before, ids in pairs]
        width = max(map(len, rows))
        # Padded on the right: no token looks at what comes after it.
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        with torch.inference_mode():
            found = torch.log_softmax(self._network(tokens).logits[:, :-1].float(), dim=-1)
        chosen = found.gather(2, tokens[:, 1:, None])[:, :, 0]
        return [
            float(chosen[row, len(before) - 1 : len(before) + len(ids) - 1].mean())
            for row, (before, ids) in enumerate(pairs)
        ]
