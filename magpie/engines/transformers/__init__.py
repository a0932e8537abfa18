"""Batched generation with transformers alone, for machines where vLLM does not run.

One worker thread holds the model. Rows decode together over one key-value cache: a row leaves the batch the moment
it is finished, and waiting rows join as soon as a quarter of the batch is free, so a long row holds nobody up. Every
row draws from a generator of its own seed, so what it draws does not depend on who is decoded beside it; the logits
do, in their last bits, and so the text is repeatable only for the same batches.
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
from magpie.engines.transformers.decoding import Batch, Grammars, Row, draw, is_repeating
from magpie.engines.transformers.thread import TransformersThread, load_from
from magpie.errors import EngineError

if TYPE_CHECKING:
    from magpie.models import ModelFiles
    from magpie.recipe import Model

_PREFILL_TOKENS = 16_384
"""Most prompt tokens, padding included, in one prefill: it bounds the memory of the attention and of the logits."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Request(Row):
    """One completion under way. `prompted` tokens of the row are its prompt; it may draw up to `limit` more."""

    prompted: int
    limit: int
    sampling: Sampling
    stop_ids: frozenset[int]
    future: Future[Completion] = field(default_factory=Future)
    matcher: Any = None

    @property
    def drawn(self) -> list[int]:
        return self.tokens[self.prompted :]

    def change_first(self, logits: Any) -> None:
        """Do to the logits of its first token, in place, what the settings ask for."""
        held, divisor = self.sampling.hold_back, self.sampling.first_token_divisor
        if len(self.tokens) == self.prompted and (held or divisor != 1):
            first_token.change(logits, hold_back=held, divisor=divisor)

    def settle(self, completion: Completion) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(completion)


class TransformersEngine(TransformersThread[_Request]):
    """An Engine. `model.slots` is the size of the batch.

    `dtype: auto` is the checkpoint's, but float32 on a CPU that has no bfloat16 arithmetic. A row also ends at the
    model's own end-of-text ids. Raises ModelError when the weights cannot be loaded; `complete` raises EngineError when
    the engine is closed, has died, or when a schema is asked for and xgrammar is not installed.
    """

    _kind = "engine"
    _network_class = "AutoModelForCausalLM"

    def __init__(self, model: Model, files: ModelFiles) -> None:
        import torch

        super().__init__(model, files)
        self._tokenizer = load_from(files, lambda: _tokenizer(model, files))
        self._end_ids = _end_ids(self._network, self._tokenizer)
        self._generator = torch.Generator
        self._grammars = Grammars(self._tokenizer, self._network.config.get_text_config().vocab_size)
        self._begin()

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """One completion of `prompt`, token ids. Raises EngineError only when the engine as a whole is lost."""
        if trouble := misfit(len(prompt), self._info.context_length):
            return Completion("", 0, "error", trouble)
        if sampling.schema is not None and importlib.util.find_spec("xgrammar") is None:
            raise EngineError("a JSON schema is asked for and xgrammar is missing; pip install xgrammar")
        row = _Request(
            tokens=list(prompt),
            prompted=len(prompt),
            limit=min(sampling.max_tokens, self._info.context_length - len(prompt)),
            sampling=sampling,
            stop_ids=self._end_ids.union(sampling.stop_ids),
            generator=self._generator().manual_seed(sampling.seed),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
        )
        self._put(row)
        return await asyncio.wrap_future(row.future)

    def _run(self) -> None:
        batch: Batch[_Request] | None = None
        while (admitted := self._admit(batch)) is not None:
            self._held = [*admitted, *(batch.rows if batch else ())]
            try:
                batch = self._advance(batch, admitted)
            except Exception as error:
                batch = None
                self._make_room(error)

    def _admit(self, batch: Batch[_Request] | None) -> list[_Request] | None:
        """The rows to prefill now, near each other in length; none to decode on; None when the engine is closed."""
        active = len(batch.rows) if batch else 0
        with self._changed:
            while not (self._closed or self._waiting or active):
                self._changed.wait()
            if self._closed:
                return None
            self._waiting = [row for row in self._waiting if not row.future.cancelled()]
            free = self._limit - active
            if not self._waiting or (batch and active and (free < self._limit / 4 or not batch.joinable)):
                return []
            length = len(self._waiting[0].tokens)
            near = sorted(self._waiting, key=lambda row: abs(len(row.tokens) - length))[:free]
            while len(near) > 1 and len(near) * max(len(row.tokens) for row in near) > _PREFILL_TOKENS:
                near.pop()
            chosen = set(near)
            self._waiting = [row for row in self._waiting if row not in chosen]
            return near

    def _advance(self, batch: Batch[_Request] | None, admitted: list[_Request]) -> Batch[_Request]:
        """One forward pass: a prefill of the rows admitted, which then join the batch, or one token for each row."""
        if not admitted:
            assert batch is not None
            if batch.rows:
                self._append(batch, batch.step(self._network))
            return batch
        able = [row for row in admitted if self._constrain(row)]
        if not able:
            return batch or Batch[_Request]()
        fresh = Batch[_Request](able)
        self._append(fresh, fresh.prefill(self._network))
        if batch is None or not batch.rows:
            return fresh
        if fresh.rows:
            batch.join(fresh)
        return batch

    def _append(self, batch: Batch[_Request], logits: Any) -> None:
        """Draw a token for every row, and let the rows go that are finished or no longer waited for."""
        self._grammars.restrict(logits, [row.matcher for row in batch.rows])
        for at, row in enumerate(batch.rows):
            row.change_first(logits[at])
        on: list[int] = []
        for at, (row, token) in enumerate(zip(batch.rows, draw(logits, batch.rows), strict=True)):
            row.tokens.append(token)
            if row.matcher is not None:
                row.matcher.accept_token(token)
            completion = self._completion(row)
            if completion is not None:
                row.settle(completion)
            elif not row.future.cancelled():
                on.append(at)
        batch.keep(on)

    def _completion(self, row: _Request) -> Completion | None:
        """What the row wrote, when its newest token is its last; else None."""
        drawn, stops = row.drawn, row.sampling.stop
        if drawn[-1] in row.stop_ids:
            return Completion(self._text(drawn[:-1]), len(drawn), "stop")
        if stops:
            reach = 4 * (max(map(len, stops)) + 1)  # a character may be spread over four tokens
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
        """Give the row a matcher of its schema; a schema that cannot be used is this row's own error."""
        if row.sampling.schema is None or row.matcher is not None:
            return True
        try:
            row.matcher = self._grammars.matcher(row.sampling.schema, row.stop_ids)
        except (RuntimeError, ValueError) as error:
            row.settle(Completion("", 0, "error", f"the schema cannot be used: {error}"))
        return row.matcher is not None

    def _too_long(self, row: _Request) -> None:
        row.settle(
            Completion("", 0, "error", f"out of memory at {len(row.tokens)} tokens; lower context_length")
        )


def _tokenizer(model: Model, files: ModelFiles) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        files.path, trust_remote_code=model.trust_remote_code, local_files_only=True
    )


def _end_ids(network: Any, tokenizer: Any) -> frozenset[int]:
    own = network.generation_config.eos_token_id if network.can_generate() else None
    listed = own if isinstance(own, list) else [own]
    return frozenset(i for i in [*listed, tokenizer.eos_token_id] if i is not None)


async def _open_scorer(model: Model, files: ModelFiles) -> Scorer:
    from magpie.engines.transformers.scoring import TransformersScorer

    return await TransformersScorer.open(model, files)


SPEC = EngineSpec(
    name="transformers",
    capabilities=Capabilities(),
    open=TransformersEngine.open,
    open_scorer=_open_scorer,
)
