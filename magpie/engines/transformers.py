"""Batched generation with transformers alone, for machines where vLLM does not run.

One worker thread holds the model. Rows decode together over one key-value cache: a row leaves the batch the moment
it is finished, and waiting rows join as soon as a quarter of the batch is free, so a long row holds nobody up. Every
row draws from a generator of its own seed, so what it draws does not depend on who is decoded beside it; the logits
do, in their last bits, and so the text is repeatable only for the same batches.
"""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from magpie import first_token
from magpie.decoding import Batch, Grammars, Row, draw, is_out_of_memory, is_repeating
from magpie.engines.base import REPEATED_TIMES, REPEATED_UNIT, Completion, ModelInfo, Sampling, misfit
from magpie.errors import EngineError, ModelError

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


class TransformersEngine:
    """An Engine on a CUDA GPU, an Apple GPU or the CPU, whichever is there first.

    `model.slots` is the size of the batch: 32 by default on a CPU, 64 elsewhere. `dtype: auto` is the checkpoint's,
    but float32 on a CPU that has no bfloat16 arithmetic. Running out of memory halves the batch, for good, and no row
    is lost by it. A row also ends at the model's own end-of-text ids. Raises ModelError when the weights cannot be
    loaded; `complete` raises EngineError when the engine is closed, has died, or when a schema is asked for and
    xgrammar is not installed.
    """

    def __init__(self, model: Model, files: ModelFiles) -> None:
        import torch

        self._device = _device()
        self._network, self._tokenizer = _load(model, files, self._device)
        config = self._network.config.get_text_config()
        longest = getattr(config, "max_position_embeddings", None) or model.context_length
        self._limit = model.slots or (32 if self._device == "cpu" else 64)
        self._info = ModelInfo(
            name=files.name,
            revision=files.revision,
            engine="transformers",
            context_length=min(model.context_length, longest),
            slots=self._limit,
        )
        self._end_ids = _end_ids(self._network, self._tokenizer)
        self._generator = torch.Generator
        self._grammars = Grammars(self._tokenizer, config.vocab_size)
        self._waiting: list[_Request] = []
        self._changed = threading.Condition()
        self._closed: str | None = None
        self._thread = threading.Thread(target=self._work, name="transformers-engine", daemon=True)
        self._thread.start()

    @classmethod
    async def open(cls, model: Model, files: ModelFiles) -> TransformersEngine:
        """Load the model off the event loop and return the engine, ready. Raises ModelError."""
        worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="transformers-load")
        loading = worker.submit(cls, model, files)
        worker.shutdown(wait=False)
        try:
            return await asyncio.wrap_future(loading)
        except asyncio.CancelledError:
            loading.add_done_callback(
                _let_go
            )  # a load cannot be stopped, and the loop may be gone when it ends
            raise

    @property
    def model(self) -> ModelInfo:
        return self._info

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
        with self._changed:
            if self._closed is not None:
                raise EngineError(self._closed)
            self._waiting.append(row)
            self._changed.notify()
        return await asyncio.wrap_future(row.future)

    async def close(self) -> None:
        """Stop after the step under way and join the thread; whoever still waits gets an EngineError."""
        self._stop()
        await asyncio.to_thread(self._thread.join)
        self._network = self._tokenizer = None

    def _stop(self) -> None:
        with self._changed:
            self._closed = self._closed or "the transformers engine was closed; open it again to go on"
            self._changed.notify()

    def _work(self) -> None:
        import torch

        batch: Batch[_Request] | None = None
        rows: list[_Request] = []
        try:
            with torch.inference_mode():
                while (admitted := self._admit(batch)) is not None:
                    rows = [*admitted, *(batch.rows if batch else ())]
                    try:
                        batch = self._advance(batch, admitted)
                    except Exception as error:
                        if not is_out_of_memory(error):
                            raise
                        batch = None
                    if batch is None:
                        self._retry(rows)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self._closed = (
                f"the transformers engine died ({reason}); start the build again, it goes on from there"
            )
        with self._changed:
            left, self._waiting = [*rows, *self._waiting], []
        for row in left:
            if not row.future.done() and row.future.set_running_or_notify_cancel():
                row.future.set_exception(EngineError(self._closed or "the transformers engine stopped"))

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

    def _retry(self, rows: list[_Request]) -> None:
        """Out of memory: half the batch from now on, and the rows go back to the head of the queue as they are."""
        import torch

        if self._device == "cuda":
            torch.cuda.empty_cache()
        going = [row for row in rows if not row.future.done()]
        if len(going) == 1:
            row = going.pop()
            row.settle(
                Completion("", 0, "error", f"out of memory at {len(row.tokens)} tokens; lower context_length")
            )
        with self._changed:
            self._limit = max(1, min(self._limit, len(going) // 2))
            self._waiting = [*going, *self._waiting]


def _let_go(loading: Future[TransformersEngine]) -> None:
    """Stop an engine that nobody waits for any more; its memory goes with its thread."""
    if not loading.cancelled() and loading.exception() is None:
        loading.result()._stop()


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _load(model: Model, files: ModelFiles, device: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # the build has a display of its own
    dtype: Any = "auto" if model.dtype == "auto" else getattr(torch, model.dtype)
    if model.dtype == "auto" and device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtype = torch.float32
    trust = {"trust_remote_code": model.trust_remote_code, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.path, **trust)
        network = AutoModelForCausalLM.from_pretrained(files.path, dtype=dtype, use_safetensors=True, **trust)
        return network.to(device).eval(), tokenizer
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"transformers cannot load {files.name!r}; check the folder or the id: {reason}"
        ) from error


def _end_ids(network: Any, tokenizer: Any) -> frozenset[int]:
    own = network.generation_config.eos_token_id if network.can_generate() else None
    listed = own if isinstance(own, list) else [own]
    return frozenset(i for i in [*listed, tokenizer.eos_token_id] if i is not None)
