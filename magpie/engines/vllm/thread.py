"""vLLM as an Engine: a thread of ours adds requests to vLLM's scheduler and steps it, without batches.

Two threads share the work. The event loop holds the requests and their futures. The engine's thread owns vLLM, and
nothing else calls into it. On a CPU the engine core runs in this process (a second process costs 40 % of the speed
there, measured on 2 cores). On a GPU it has a process of its own, so that Python here never delays a kernel there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import threading
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from magpie.engines.base import ModelInfo, Sampling
from magpie.engines.vllm import orphans
from magpie.engines.vllm.endings import LAST_WORDS, ProcessWatch, death_message, last_line, load_error
from magpie.engines.vllm.quiet import Said, silence_stderr
from magpie.engines.vllm.settings import prepare_environment
from magpie.engines.vllm.spawn import without_main
from magpie.errors import EngineError
from magpie.models import ModelFiles
from magpie.recipe import Model

_log = logging.getLogger(__name__)

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class _Request(Generic[A]):
    prompt: list[int]
    sampling: Sampling | None
    answer: asyncio.Future[A]


class VllmThread(ABC, Generic[A]):
    """The installed vLLM, on a GPU or with the CPU build, in a thread of its own. `A` is the type of an answer.

    Make it with `open`: loading takes from 20 seconds to minutes and happens off the event loop. Raises EngineError
    when the model cannot be loaded. A subclass defines the engine's arguments, a request's parameters and its answer.
    """

    def __init__(self, model: Model, files: ModelFiles) -> None:
        self._settings = model
        self._files = files
        # Only the event loop changes `_requests`. The inbox tells the engine's thread what changed: an id that is in
        # `_requests` is to be added, one that is no longer there is to be aborted. A deque needs no lock for that.
        self._inbox: deque[str] = deque()
        self._requests: dict[str, _Request[A]] = {}
        self._wake = threading.Event()
        self._closing = False
        self._lost: BaseException | None = None
        self._said = Said()
        self._watch = ProcessWatch(self._is_over, self._die, self._said)
        self._next_id = 0
        self._slots_asked: int | None = None
        self._loop = asyncio.get_running_loop()
        self._model: ModelInfo
        self._loaded: asyncio.Future[ModelInfo] = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, name="magpie-vllm", daemon=True)

    @classmethod
    async def open(cls, model: Model, files: ModelFiles) -> Self:
        """Load the model and return the engine, ready."""
        engine = cls(model, files)
        # Libraries write to standard error while they load. MAGPIE_LOG=DEBUG shows it.
        is_verbose = _log.isEnabledFor(logging.DEBUG)
        with contextlib.nullcontext() if is_verbose else silence_stderr(engine._said):
            try:
                engine._thread.start()
                engine._model = await engine._loaded
            except BaseException:
                # A load cannot be stopped. The thread shuts vLLM down once it is loaded.
                engine._closing = True
                engine._wake.set()
                raise
        return engine

    @property
    def model(self) -> ModelInfo:
        """What was loaded."""
        return self._model

    async def _submit(self, prompt: Sequence[int], sampling: Sampling | None = None) -> A:
        """The answer to one request. Cancelling the call aborts the request."""
        if self._lost is not None:
            raise EngineError(death_message(self._lost)) from self._lost
        key = str(self._next_id)
        self._next_id += 1
        request: _Request[A] = _Request(list(prompt), sampling, self._loop.create_future())
        self._requests[key] = request
        self._notify_thread(key)
        try:
            return await request.answer
        except asyncio.CancelledError:
            # A request that is no longer here was answered at the same moment, and vLLM is done with it.
            if self._requests.pop(key, None) is not None:
                self._notify_thread(key)
            raise

    async def close(self) -> None:
        """Drop the running requests, stop vLLM and free its memory."""
        self._closing = True
        self._wake.set()
        # The thread of an engine that is lost may be waiting for ever, and holds nothing any more.
        await asyncio.to_thread(self._thread.join, 30 if self._lost is None else LAST_WORDS)

    # For subclasses.

    @abstractmethod
    def _arguments(self, *, on_cpu: bool) -> dict[str, Any]:
        """The arguments of `vllm.EngineArgs`."""

    def _configure(self, config: Any) -> None:
        """Change vLLM's configuration before it loads the model."""

    @abstractmethod
    def _parameters(self, sampling: Sampling | None) -> Any:
        """The `vllm.SamplingParams` or `vllm.PoolingParams` of one request."""

    @abstractmethod
    def _read(self, output: Any) -> A:
        """The answer in vLLM's output for one request."""

    @abstractmethod
    def _refusal(self, reason: str) -> A:
        """The answer to a request that vLLM refuses."""

    # Everything below runs in the engine's own thread.

    def _work(self) -> None:
        # One thread loads the model and steps it: the CPU build binds its worker threads to the thread that loads it.
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                llm = self._load()
        except BaseException as error:
            failure = load_error(self._files.name, self._watch.told(error), self._slots_asked)
            failure.__cause__ = error
            self._call_on_loop(self._set_load_error, failure)
            return
        try:
            while not self._closing:
                self._admit(llm)
                if llm.has_unfinished_requests():
                    finished = [output for output in llm.step() if output.finished]
                    if finished:
                        self._call_on_loop(self._deliver, finished)
                else:
                    # Idle. The inbox is filled before `_wake` is set, and read again after `_wake` is cleared, so no
                    # request is missed in between.
                    self._wake.wait()
                    self._wake.clear()
        except BaseException as error:
            # Set first: `_submit` refuses from now on, so `_fail_all` leaves no request behind.
            self._lost = self._lost or self._watch.told(error)
            self._call_on_loop(self._fail_all, self._lost)
        finally:
            with contextlib.suppress(Exception):
                llm.engine_core.shutdown()

    def _is_over(self) -> bool:
        return self._closing or self._lost is not None

    def _die(self, error: EngineError) -> None:
        self._lost = error
        self._call_on_loop(self._fail_all, error)

    def _call_on_loop(self, call: Callable[..., Any], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for the answer
            self._loop.call_soon_threadsafe(call, *arguments)

    def _load(self) -> Any:
        prepare_environment()
        import vllm
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext

        on_cpu = current_platform.is_cpu()
        separate = self._settings.separate_process
        separate = not on_cpu if separate is None else separate
        # There is no argument for it: vLLM reads the environment when the engine is made.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(separate))
        arguments = vllm.EngineArgs(**self._arguments(on_cpu=on_cpu))
        self._slots_asked = arguments.max_num_seqs
        config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
        self._configure(config)
        has_processes = separate or self._settings.tensor_parallel > 1
        before = set(multiprocessing.active_children())
        with contextlib.ExitStack() as started:
            if has_processes:
                started.enter_context(orphans.watch())
                started.enter_context(without_main())
            llm = vllm.LLMEngine.from_vllm_config(config, disable_log_stats=True)
        self._watch.begin(llm, before)
        info = ModelInfo(
            name=self._files.name,
            revision=self._files.revision,
            engine=f"vllm {vllm.__version__}",
            context_length=llm.model_config.max_model_len,
            slots=llm.vllm_config.scheduler_config.max_num_seqs,
            settings=_settings(llm.vllm_config),
        )
        self._call_on_loop(self._set_loaded, info)
        return llm

    def _admit(self, llm: Any) -> None:
        while self._inbox:
            key = self._inbox.popleft()
            request = self._requests.get(key)
            # Cancelled, perhaps before it was added: vLLM ignores an id that it does not know.
            if request is None:
                llm.abort_request([key])
                continue
            try:
                parameters = self._parameters(request.sampling)
                llm.add_request(key, {"prompt_token_ids": request.prompt}, parameters)
            except ValueError as error:
                self._call_on_loop(self._refuse, key, last_line(error))

    # Everything below runs on the event loop.

    def _set_loaded(self, info: ModelInfo) -> None:
        if not self._loaded.done():
            self._loaded.set_result(info)

    def _set_load_error(self, error: EngineError) -> None:
        if not self._loaded.done():
            self._loaded.set_exception(error)

    def _notify_thread(self, key: str) -> None:
        self._inbox.append(key)
        self._wake.set()

    def _refuse(self, key: str, reason: str) -> None:
        request = self._requests.pop(key, None)
        if request is not None:
            _answer(request.answer, self._refusal(reason))

    def _deliver(self, outputs: list[Any]) -> None:
        for output in outputs:
            # None where the call was cancelled while the output was on its way.
            request = self._requests.pop(output.request_id, None)
            if request is not None:
                _answer(request.answer, self._read(output))

    def _fail_all(self, error: BaseException) -> None:
        for request in self._requests.values():
            if not request.answer.done():
                request.answer.set_exception(EngineError(death_message(error)))
        self._requests.clear()


def _settings(config: Any) -> dict[str, Any]:
    """What a run records of how the engine was set, besides its slots."""
    sizes = config.compilation_config.cudagraph_capture_sizes
    return {
        "batched_tokens": config.scheduler_config.max_num_batched_tokens,
        "graph_sizes": list(sizes or ()),
        "context_length": config.model_config.max_model_len,
        "tensor_parallel": config.parallel_config.tensor_parallel_size,
    }


def _answer(future: asyncio.Future[A], answer: A) -> None:
    if not future.done():
        future.set_result(answer)
