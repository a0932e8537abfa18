"""A model of transformers on a thread of its own, what waits for it, and what becomes of those who wait."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

from magpie.engines.base import ModelInfo
from magpie.engines.transformers.decoding import is_out_of_memory
from magpie.errors import EngineError, ModelError

if TYPE_CHECKING:
    from magpie.models import ModelFiles
    from magpie.recipe import Model


class Waits(Protocol):
    """One row that waits: the tokens it stands at, and where its answer goes."""

    tokens: list[int]
    future: Future[Any]


W = TypeVar("W", bound=Waits)


class TransformersThread(ABC, Generic[W]):
    """A model on a CUDA GPU, an Apple GPU or the CPU, whichever is there first, and the queue before it.

    `_limit` is how many rows are taken at once: `model.slots`, or 32 on a CPU and 64 elsewhere. Running out of memory
    halves it, for good, and no row is lost by it. A subclass calls `_begin` when it is ready to work.
    """

    _kind: ClassVar[str]
    _network_class: ClassVar[str]

    def __init__(self, model: Model, files: ModelFiles) -> None:
        self._device = _device()
        self._network = load_from(files, lambda: self._load(model, files))
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
        self._waiting: list[W] = []
        self._held: list[W] = []
        self._changed = threading.Condition()
        self._closed: str | None = None
        self._thread = threading.Thread(target=self._work, name=f"transformers-{self._kind}", daemon=True)

    @classmethod
    async def open(cls, model: Model, files: ModelFiles) -> Self:
        """Load the model off the event loop; what comes is ready. Raises ModelError."""
        worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="transformers-load")
        loading = worker.submit(cls, model, files)
        worker.shutdown(wait=False)
        try:
            return await asyncio.wrap_future(loading)
        except asyncio.CancelledError:
            # A load cannot be stopped, and the loop may be gone when it ends.
            loading.add_done_callback(_let_go)
            raise

    @property
    def model(self) -> ModelInfo:
        """What was loaded."""
        return self._info

    async def close(self) -> None:
        """Stop after the pass under way and join the thread; whoever still waits gets an EngineError."""
        self._stop()
        await asyncio.to_thread(self._thread.join)
        self._network = None

    def _begin(self) -> None:
        self._thread.start()

    def _put(self, row: W) -> None:
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
        """Work until it is closed or dies; then nobody is left waiting."""
        import torch

        try:
            with torch.inference_mode():
                self._run()
        except Exception as error:
            self._closed = (
                f"the transformers {self._kind} died ({type(error).__name__}: {error}); "
                "start the build again, it goes on from there"
            )
        with self._changed:
            left, self._held, self._waiting = [*self._held, *self._waiting], [], []
        for row in left:
            if not row.future.done() and row.future.set_running_or_notify_cancel():
                row.future.set_exception(
                    EngineError(self._closed or f"the transformers {self._kind} stopped")
                )

    @abstractmethod
    def _run(self) -> None:
        """Take rows and work on them until the engine is closed; `_held` are those it has taken."""

    @abstractmethod
    def _too_long(self, row: W) -> None:
        """Answer a row that alone is too much for the memory."""

    def _make_room(self, error: Exception) -> None:
        """Out of memory: half as many rows from now on, and those held wait again. Any other error is raised."""
        if not is_out_of_memory(error):
            raise error
        import torch

        if self._device == "cuda":
            torch.cuda.empty_cache()
        going = [row for row in self._held if not row.future.done()]
        if len(going) == 1:
            self._too_long(going.pop())
        with self._changed:
            self._limit = max(1, min(self._limit, len(going) // 2))
            self._waiting, self._held = [*going, *self._waiting], []

    def _load(self, model: Model, files: ModelFiles) -> Any:
        import torch
        import transformers
        from transformers.utils import logging

        logging.disable_progress_bar()  # the build has a display of its own
        dtype: Any = "auto" if model.dtype == "auto" else getattr(torch, model.dtype)
        if (
            model.dtype == "auto"
            and self._device == "cpu"
            and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
        ):
            dtype = torch.float32
        network = getattr(transformers, self._network_class).from_pretrained(
            files.path,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=model.trust_remote_code,
            local_files_only=True,
        )
        return network.to(self._device).eval()


def load_from(files: ModelFiles, load: Any) -> Any:
    """What `load` gives. What it raises becomes one ModelError."""
    try:
        return load()
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"transformers cannot load {files.name!r}; check the folder or the id: {reason}"
        ) from error


def _let_go(loading: Future[Any]) -> None:
    """Stop what nobody waits for any more; its memory goes with its thread."""
    if not loading.cancelled() and loading.exception() is None:
        loading.result()._stop()


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
