"""Reward models with transformers alone, for machines where vLLM does not run.

One worker thread holds the model. It takes the longest conversations that wait, as many as fit, and scores them in one
pass: neighbours in length need little padding. The attention mask hides the padding, so a conversation's reward is the
one it has alone, but for the last bits of the arithmetic.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from magpie.decoding import is_out_of_memory
from magpie.engines.base import ModelInfo, Score, oversize, reward_padding, without_padding
from magpie.errors import EngineError, ModelError

if TYPE_CHECKING:
    from magpie.models import ModelFiles
    from magpie.recipe import Model

_PASS_TOKENS = 16_384
"""Most tokens, padding included, in one pass: it bounds the memory of the attention."""


@dataclass(slots=True, eq=False)
class _Waiting:
    tokens: list[int]
    future: Future[Score] = field(default_factory=Future)

    def settle(self, score: Score) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(score)


class TransformersScorer:
    """A Scorer on a CUDA GPU, an Apple GPU or the CPU, whichever is there first.

    `model.slots` is the most conversations in a pass: 32 by default on a CPU, 64 elsewhere. Running out of memory
    halves that, for good, and no row is lost by it. Raises ModelError when the model is no reward model or its weights
    cannot be loaded.
    """

    def __init__(self, model: Model, files: ModelFiles) -> None:
        self._padding = reward_padding(files, trust_remote_code=model.trust_remote_code)
        self._network, self._device = _load(model, files)
        config = self._network.config.get_text_config()
        longest = getattr(config, "max_position_embeddings", None) or model.context_length
        self._limit = model.slots or (32 if self._device == "cpu" else 64)
        self._info = ModelInfo(
            name=files.name,
            revision=files.revision,
            engine="transformers",
            context_length=min(model.context_length, longest),
            slots=8 * self._limit,  # more than one pass waits, so that neighbours in length can be chosen
        )
        self._waiting: list[_Waiting] = []
        self._changed = threading.Condition()
        self._closed: str | None = None
        self._thread = threading.Thread(target=self._work, name="transformers-scorer", daemon=True)
        self._thread.start()

    @classmethod
    async def open(cls, model: Model, files: ModelFiles) -> TransformersScorer:
        """Load the model off the event loop and return the scorer, ready. Raises ModelError."""
        worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="transformers-load")
        loading = worker.submit(cls, model, files)
        worker.shutdown(wait=False)
        try:
            return await asyncio.wrap_future(loading)
        except asyncio.CancelledError:
            loading.add_done_callback(_let_go)  # a load cannot be stopped
            raise

    @property
    def model(self) -> ModelInfo:
        """What was loaded."""
        return self._info

    async def score(self, conversation: Sequence[int]) -> Score:
        """The raw logit of one conversation. Raises EngineError only when the scorer as a whole is lost."""
        tokens = without_padding(conversation, self._padding)
        if trouble := oversize(len(tokens), self._info.context_length):
            return Score(None, trouble)
        waiting = _Waiting(tokens)
        with self._changed:
            if self._closed is not None:
                raise EngineError(self._closed)
            self._waiting.append(waiting)
            self._changed.notify()
        return await asyncio.wrap_future(waiting.future)

    async def close(self) -> None:
        """Stop after the pass under way and join the thread; whoever still waits gets an EngineError."""
        self._stop()
        await asyncio.to_thread(self._thread.join)
        self._network = None

    def _stop(self) -> None:
        with self._changed:
            self._closed = self._closed or "the transformers scorer was closed; open it again to go on"
            self._changed.notify()

    def _work(self) -> None:
        import torch

        taken: list[_Waiting] = []
        try:
            with torch.inference_mode():
                while taken := self._take():
                    try:
                        rewards = self._pass([waiting.tokens for waiting in taken])
                    except Exception as error:
                        if not is_out_of_memory(error):
                            raise
                        self._retry(taken)
                        continue
                    for waiting, reward in zip(taken, rewards, strict=True):
                        waiting.settle(Score(reward))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self._closed = (
                f"the transformers scorer died ({reason}); start the build again, it goes on from there"
            )
        with self._changed:
            left, self._waiting = [*taken, *self._waiting], []
        for waiting in left:
            if not waiting.future.done() and waiting.future.set_running_or_notify_cancel():
                waiting.future.set_exception(EngineError(self._closed or "the transformers scorer stopped"))

    def _take(self) -> list[_Waiting]:
        """The longest conversations that fit into one pass; none when the scorer is closed."""
        with self._changed:
            while not (self._closed or self._waiting):
                self._changed.wait()
            if self._closed:
                return []
            self._waiting.sort(key=lambda waiting: -len(waiting.tokens))
            fit = max(1, min(self._limit, _PASS_TOKENS // len(self._waiting[0].tokens)))
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

    def _retry(self, taken: list[_Waiting]) -> None:
        """Out of memory: half the conversations in a pass from now on, and these wait again."""
        import torch

        if self._device == "cuda":
            torch.cuda.empty_cache()
        if len(taken) == 1:
            length = len(taken[0].tokens)
            taken.pop().settle(Score(None, f"out of memory at {length} tokens; lower context_length"))
        with self._changed:
            self._limit = max(1, min(self._limit, len(taken) // 2))
            self._waiting = [*taken, *self._waiting]


def _let_go(loading: Future[TransformersScorer]) -> None:
    """Stop a scorer that nobody waits for any more; its memory goes with its thread."""
    if not loading.cancelled() and loading.exception() is None:
        loading.result()._stop()


def _load(model: Model, files: ModelFiles) -> tuple[Any, str]:
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()  # the build has a display of its own
    device = "mps" if torch.backends.mps.is_available() else "cpu"
    device = "cuda" if torch.cuda.is_available() else device
    dtype: Any = "auto" if model.dtype == "auto" else getattr(torch, model.dtype)
    if model.dtype == "auto" and device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtype = torch.float32
    try:
        network = AutoModelForSequenceClassification.from_pretrained(
            files.path,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=model.trust_remote_code,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"transformers cannot load {files.name!r}; check the folder or the id: {reason}"
        ) from error
    network.config.use_cache = False
    return network.to(device).eval(), device
