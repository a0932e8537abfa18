"""A transformers model on a thread of its own, with a queue of rows before it."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

from magpie import machine
from magpie.engines.base import ModelInfo
from magpie.engines.transformers.decoding import is_out_of_memory
from magpie.errors import EngineError, ModelError

if TYPE_CHECKING:
    from magpie.models import ModelFiles
    from magpie.recipe import Model


class Queued(Protocol):
    """A row in the queue: its tokens so far, and the future that its answer goes to."""

    tokens: list[int]
    future: Future[Any]


Q = TypeVar("Q", bound=Queued)


class TransformersThread(ABC, Generic[Q]):
    """A model on a CUDA GPU, else an Apple GPU, else the CPU or where `model.device` says so, and the queue before it.

    `_limit` is how many rows are taken at once: `model.slots`, or 32 on a CPU and 64 elsewhere. Running out of memory
    halves it for good, and loses no row. A subclass calls `_start` at the end of its `__init__`.
    """

    _kind: ClassVar[str]
    _network_class: ClassVar[str]

    def __init__(self, model: Model, files: ModelFiles) -> None:
        self._device = _device(model)
        self._network = load_or_raise(files, lambda: self._load(model, files))
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
        self._waiting: list[Q] = []
        self._active: list[Q] = []
        self._changed = threading.Condition()
        self._closed: str | None = None
        self._thread = threading.Thread(target=self._work, name=f"transformers-{self._kind}", daemon=True)

    @classmethod
    async def open(cls, model: Model, files: ModelFiles) -> Self:
        """Load the model off the event loop; what is returned is ready. Raises ModelError."""
        # Not asyncio.to_thread: closing a loop waits for its threads, and a load may take minutes.
        worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="transformers-load")
        loading = worker.submit(cls, model, files)
        worker.shutdown(wait=False)
        try:
            return await asyncio.wrap_future(loading)
        except asyncio.CancelledError:
            # A load cannot be stopped, and the loop may be gone when it ends.
            loading.add_done_callback(_stop_when_loaded)
            raise

    @property
    def model(self) -> ModelInfo:
        """What was loaded."""
        return self._info

    async def close(self) -> None:
        """Stop after the current forward pass and join the thread; calls that still wait get an EngineError."""
        self._stop()
        await asyncio.to_thread(self._thread.join)
        self._network = None

    def _start(self) -> None:
        self._thread.start()

    def _enqueue(self, row: Q) -> None:
        with self._changed:
            if self._closed is not None:
                raise EngineError(self._closed)
            self._waiting.append(row)
            self._changed.notify()

    def _stop(self) -> None:
        with self._changed:
            self._closed = self._closed or f"the transformers {self._kind} was closed; open it again to go on"
            self._changed.notify()

    def _work(self) -> None:
        """Run until the engine is closed or dies; then answer every row that is left with an error."""
        import torch

        try:
            with torch.inference_mode():
                self._run()
        except Exception as error:
            self._closed = (
                f"the transformers {self._kind} died ({type(error).__name__}: {error}); "
                "start the build again, it goes on from there"
            )
        # `_closed` is set by now, so `_enqueue` takes no more rows and none can be left out.
        with self._changed:
            left, self._active, self._waiting = [*self._active, *self._waiting], [], []
        for row in left:
            if not row.future.done() and row.future.set_running_or_notify_cancel():
                row.future.set_exception(
                    EngineError(self._closed or f"the transformers {self._kind} stopped")
                )

    @abstractmethod
    def _run(self) -> None:
        """Take rows from the queue and answer them until the engine is closed. `_active` holds the rows taken."""

    @abstractmethod
    def _answer_too_long(self, row: Q) -> None:
        """Answer a row that does not fit into memory even alone."""

    def _shrink(self, error: Exception) -> None:
        """When out of memory: halve the limit and queue the active rows again. Any other error is raised."""
        if not is_out_of_memory(error):
            raise error
        import torch

        if self._device == "cuda":
            torch.cuda.empty_cache()
        unfinished = [row for row in self._active if not row.future.done()]
        if len(unfinished) == 1:
            self._answer_too_long(unfinished.pop())
        with self._changed:
            # Half of what was just too much, which may be less than the limit. They go first: they have waited longest.
            self._limit = max(1, min(self._limit, len(unfinished) // 2))
            self._waiting, self._active = [*unfinished, *self._waiting], []

    def _load(self, model: Model, files: ModelFiles) -> Any:
        import torch
        import transformers
        from transformers.utils import logging

        logging.disable_progress_bar()  # the build has a display of its own
        dtype: Any = "auto" if model.dtype == "auto" else getattr(torch, model.dtype)
        if dtype == "auto" and self._device == "cpu":
            dtype = "auto" if machine.computes_in_bfloat16() else torch.float32
        network, loaded = getattr(transformers, self._network_class).from_pretrained(
            files.path,
            output_loading_info=True,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=model.trust_remote_code,
            local_files_only=True,
        )
        if problem := untrained(loaded["missing_keys"]):
            raise ModelError(f"{files.name!r} {problem}")
        return network.to(self._device).eval()


def untrained(missing: Collection[str]) -> str | None:
    """What to say of a model some of whose tensors are in no file of it; None where none are missing."""
    if not missing:
        return None
    return (
        f"lacks {len(missing)} of its tensors, {min(missing)} among them: they would be random; "
        "check that the weights belong to the config, or name another model"
    )


def load_or_raise(files: ModelFiles, load: Any) -> Any:
    """The result of `load`. What transformers raises becomes a ModelError."""
    try:
        return load()
    except ModelError:
        raise
    except Exception as error:  # the reader of safetensors, for one, has errors of its own
        reason = " ".join(str(error).split())
        raise ModelError(
            f"transformers cannot load {files.name!r}; check the folder or the id: {reason}"
        ) from error


def _stop_when_loaded(loading: Future[Any]) -> None:
    """Stop an engine that nobody waits for any more. Its memory is freed when its thread ends."""
    if not loading.cancelled() and loading.exception() is None:
        loading.result()._stop()


def _device(model: Model) -> str:
    import torch

    if model.device == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
