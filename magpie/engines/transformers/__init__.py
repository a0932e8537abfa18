"""Batched generation with transformers alone, for machines where vLLM does not run.

One worker thread holds the model and batches continuously: rows decode together over one key-value cache, a row leaves
the batch as soon as it is finished, and waiting rows join when a quarter of the batch is free. Every row draws from a
generator of its own seed, whatever the rows beside it. The logits do depend on those rows in their last bits, so the
same text is promised only for the same batches.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from magpie.engines import first_token
from magpie.engines.base import (
    REPEATED_TIMES,
    REPEATED_UNIT,
    Capabilities,
    Completion,
    EngineSpec,
    Sampling,
    Scorer,
    misfit,
)
from magpie.engines.transformers.decoding import Batch, Grammars, Row, draw, is_repeating, penalize
from magpie.engines.transformers.thread import TransformersThread
from magpie.errors import EngineError
from magpie.models.tokenizer import open_tokenizer

if TYPE_CHECKING:
    from magpie.models import ModelFiles
    from magpie.recipe import Model

_PREFILL_TOKENS = 16_384
"""Most prompt tokens, padding included, in one prefill: it bounds the memory of the attention."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Request(Row):
    """One unfinished completion. The first `prompt_length` tokens are its prompt; it may draw up to `limit` more."""

    limit: int
    sampling: Sampling
    stop_ids: frozenset[int]
    future: Future[Completion] = field(default_factory=Future)
    matcher: Any = None

    @property
    def drawn(self) -> list[int]:
        return self.tokens[self.prompt_length :]

    def change_first_token(self, logits: Any) -> None:
        """Apply `hold_back` and `first_token_divisor` to the row's logits, in place, if its first token is next."""
        hold_back, divisor = self.sampling.hold_back, self.sampling.first_token_divisor
        if len(self.tokens) == self.prompt_length and (hold_back or divisor != 1):
            first_token.change(logits, hold_back=hold_back, divisor=divisor)

    def answer(self, completion: Completion) -> None:
        # False when the caller has cancelled: nobody waits for the answer.
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(completion)


class TransformersEngine(TransformersThread[_Request]):
    """An Engine. `model.slots` is the size of the batch.

    `dtype: auto` is the checkpoint's, but float32 on a CPU that has no bfloat16 arithmetic. A row also ends at the
    model's own end-of-text ids. Raises ModelError when the weights cannot be loaded; `complete` raises EngineError when
    the engine is closed or has died, or a schema is asked for and xgrammar is not installed.
    """

    _kind = "engine"
    _network_class = "AutoModelForCausalLM"

    def __init__(self, model: Model, files: ModelFiles) -> None:
        import torch

        super().__init__(model, files)
        self._tokenizer = _tokenizer(model, files)
        self._end_ids = _end_ids(self._network, self._tokenizer)
        self._generator = torch.Generator
        self._grammars = Grammars(self._tokenizer, self._network.config.get_text_config().vocab_size)
        self._start()

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """One completion of `prompt`, token ids. Raises EngineError only when the engine as a whole is lost."""
        if problem := misfit(len(prompt), self._info.context_length):
            return Completion("", 0, "error", problem)
        if sampling.schema is not None and importlib.util.find_spec("xgrammar") is None:
            raise EngineError("a JSON schema is asked for and xgrammar is missing; pip install xgrammar")
        row = _Request(
            tokens=list(prompt),
            prompt_length=len(prompt),
            limit=min(sampling.max_tokens, self._info.context_length - len(prompt)),
            sampling=sampling,
            stop_ids=self._end_ids.union(sampling.stop_ids),
            generator=self._generator().manual_seed(sampling.seed),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            presence_penalty=sampling.presence_penalty,
        )
        self._enqueue(row)
        return await asyncio.wrap_future(row.future)

    def _run(self) -> None:
        batch = Batch[_Request]()
        while (admitted := self._admit(batch)) is not None:
            self._active = [*admitted, *batch.rows]
            try:
                batch = self._advance(batch, admitted)
            except Exception as error:
                # The cache may be half updated. The rows keep their tokens, and are prefilled again from those.
                batch = Batch()
                self._shrink(error)

    def _admit(self, batch: Batch[_Request]) -> list[_Request] | None:
        """The rows to prefill now, of like length; none when decoding goes on; None when the engine is closed."""
        active = len(batch.rows)
        with self._changed:
            while not (self._closed or self._waiting or active):
                self._changed.wait()
            if self._closed:
                return None
            self._waiting = [row for row in self._waiting if not row.future.cancelled()]
            free = self._limit - active
            # A prefill stops everyone's decoding, so it waits until a quarter of the batch can join at once. A cache
            # that cannot be joined runs empty first.
            if not self._waiting or (active and (free < self._limit / 4 or not batch.joinable)):
                return []
            # Rows of like length need little padding. The one that waits longest is always among them.
            length = len(self._waiting[0].tokens)
            group = sorted(self._waiting, key=lambda row: abs(len(row.tokens) - length))[:free]
            while len(group) > 1 and len(group) * max(len(row.tokens) for row in group) > _PREFILL_TOKENS:
                group.pop()
            admitted = set(group)
            self._waiting = [row for row in self._waiting if row not in admitted]
            return group

    def _advance(self, batch: Batch[_Request], admitted: list[_Request]) -> Batch[_Request]:
        """One forward pass: a prefill of the admitted rows, which then join the batch, or one token for each row."""
        if not admitted:
            if batch.rows:  # there are none where all that waited was cancelled
                self._append(batch, batch.step(self._network))
            return batch
        usable = [row for row in admitted if self._constrain(row)]
        if not usable:
            return batch
        fresh = Batch[_Request](usable)
        self._append(fresh, fresh.prefill(self._network))
        if not batch.rows:
            return fresh
        if fresh.rows:
            batch.join(fresh)
        return batch

    def _append(self, batch: Batch[_Request], logits: Any) -> None:
        """Draw a token for every row, and drop the rows that are finished or cancelled."""
        penalize(logits, batch.rows)
        self._grammars.restrict(logits, [row.matcher for row in batch.rows])
        for at, row in enumerate(batch.rows):
            row.change_first_token(logits[at])
        unfinished: list[int] = []
        for at, (row, token) in enumerate(zip(batch.rows, draw(logits, batch.rows), strict=True)):
            row.tokens.append(token)
            if row.matcher is not None:
                row.matcher.accept_token(token)
            completion = self._completion(row)
            if completion is not None:
                row.answer(completion)
            elif not row.future.cancelled():
                unfinished.append(at)
        batch.keep(unfinished)

    def _completion(self, row: _Request) -> Completion | None:
        """The row's completion if its newest token is its last, else None."""
        drawn, stops = row.drawn, row.sampling.stop
        if drawn[-1] in row.stop_ids:
            return Completion(self._text(drawn[:-1]), len(drawn), "stop")
        if stops:
            # Only the tail is decoded after every token. It reaches back far enough for the longest stop, since a
            # character may be spread over four tokens.
            reach = 4 * (max(map(len, stops)) + 1)
            tail = self._text(drawn[-reach:])
            if any(stop in tail for stop in stops):
                text = self._text(drawn)
                end = min(text.find(stop) for stop in stops if stop in text)
                return Completion(text[:end], len(drawn), "stop")
        if len(drawn) >= row.limit:
            return Completion(self._text(drawn), len(drawn), "length")
        if row.sampling.stop_repetition and is_repeating(drawn, unit=REPEATED_UNIT, times=REPEATED_TIMES):
            return Completion(self._text(drawn), len(drawn), "repetition")
        return None

    def _text(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    def _constrain(self, row: _Request) -> bool:
        """Give the row a matcher for its schema. False, and an answer to the row, when the schema cannot be used."""
        # A row that is prefilled again after a lack of memory keeps its matcher, which stands where the row does.
        if row.sampling.schema is None or row.matcher is not None:
            return True
        try:
            row.matcher = self._grammars.matcher(row.sampling.schema, row.stop_ids)
        except (RuntimeError, ValueError) as error:
            row.answer(Completion("", 0, "error", f"the schema cannot be used: {error}"))
        return row.matcher is not None

    def _answer_too_long(self, row: _Request) -> None:
        row.answer(
            Completion("", 0, "error", f"out of memory at {len(row.tokens)} tokens; lower context_length")
        )


def _tokenizer(model: Model, files: ModelFiles) -> Any:
    return open_tokenizer(files.path, files.name, trust_remote_code=model.trust_remote_code).tokenizer


def _end_ids(network: Any, tokenizer: Any) -> frozenset[int]:
    """The model's own end-of-text ids: its generation config has one, a list or none; the tokenizer may add one."""
    configured = network.generation_config.eos_token_id if network.can_generate() else None
    ids = configured if isinstance(configured, list) else [configured]
    # A config without ids of its own has those of its class: 2 is `</s>` to Llama 2, and "#" to many tokenizers.
    control = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None and i in control)


async def _open_scorer(model: Model, files: ModelFiles) -> Scorer:
    from magpie.engines.transformers.scoring import TransformersScorer

    return await TransformersScorer.open(model, files)


SPEC = EngineSpec(
    name="transformers",
    capabilities=Capabilities(),
    open=TransformersEngine.open,
    open_scorer=_open_scorer,
)
