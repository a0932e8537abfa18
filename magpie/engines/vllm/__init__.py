"""vLLM, kept full: one thread that admits requests and steps, and never waits for a batch.

The model is loaded and stepped by the same thread, because the CPU build binds its worker threads to the thread that
loads it. On a CPU the engine lives in this process (a second process costs 40 % of the speed there, measured on
2 cores); on a GPU it has a process of its own, so that Python here never delays a kernel there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from magpie.engines import first_token
from magpie.engines.base import Capabilities, Completion, EngineSpec, ModelInfo, Sampling, Scorer, misfit
from magpie.engines.vllm import orphans, quiet
from magpie.engines.vllm.settings import engine_arguments, prepare_environment, sampling_params
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
    """A vLLM engine of the version installed, on a GPU or with the CPU build, in a thread that answers with `A`.

    Open it with `await ....open(model, files)`; loading takes from 20 seconds to minutes and happens off the event
    loop. Raises EngineError when the model cannot be loaded. A subclass says what vLLM is asked for and what an answer
    is made of.
    """

    def __init__(self, model: Model, files: ModelFiles) -> None:
        self._settings = model
        self._files = files
        self._inbox: deque[str] = deque()  # ids to admit, or to abort when they are no longer in _requests
        self._requests: dict[str, _Request[A]] = {}
        self._wake = threading.Event()
        self._closing = False
        self._lost: BaseException | None = None
        self._next_id = 0
        self._loop = asyncio.get_running_loop()
        self._model: ModelInfo
        self._loaded: asyncio.Future[ModelInfo] = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, name="magpie-vllm", daemon=True)

    @classmethod
    async def open(cls, model: Model, files: ModelFiles) -> Self:
        """Load the model and return the engine, ready."""
        engine = cls(model, files)
        is_told = _log.isEnabledFor(logging.DEBUG)  # MAGPIE_LOG=DEBUG: all that libraries say while they load
        with contextlib.nullcontext() if is_told else quiet.standard_error():
            try:
                engine._thread.start()
                engine._model = await engine._loaded
            except BaseException:
                engine._closing = True  # a load cannot be stopped: the thread lets go of what it has loaded
                engine._wake.set()
                raise
        return engine

    @property
    def model(self) -> ModelInfo:
        """What was loaded."""
        return self._model

    async def _ask(self, prompt: Sequence[int], sampling: Sampling | None = None) -> A:
        """The answer to one request; cancelling the call takes it out of the engine."""
        if self._lost is not None:
            raise EngineError(_death(self._lost)) from self._lost
        key = str(self._next_id)
        self._next_id += 1
        request: _Request[A] = _Request(list(prompt), sampling, self._loop.create_future())
        self._requests[key] = request
        self._tell(key)
        try:
            return await request.answer
        except asyncio.CancelledError:
            if self._requests.pop(key, None) is not None:
                self._tell(key)
            raise

    async def close(self) -> None:
        """Drop what is running and give the memory back."""
        self._closing = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join, 30)

    # What a subclass says.

    @abstractmethod
    def _arguments(self, *, on_cpu: bool) -> dict[str, Any]:
        """What `vllm.EngineArgs` is given."""

    def _configure(self, config: Any) -> None:
        """Change vLLM's configuration before it loads the model."""

    @abstractmethod
    def _parameters(self, sampling: Sampling | None) -> Any:
        """What vLLM is asked to do with one prompt."""

    @abstractmethod
    def _read(self, output: Any) -> A:
        """The answer in what vLLM gave for a request."""

    @abstractmethod
    def _refusal(self, why: str) -> A:
        """The answer to a request that vLLM refuses."""

    # Everything below runs in the engine's own thread.

    def _work(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                llm = self._load()
        except BaseException as error:
            failure = EngineError(
                f"vLLM could not load {self._files.name}: {_last_line(error)}; {_advice(error)}"
            )
            failure.__cause__ = error
            self._tell_loop(self._not_loaded, failure)
            return
        try:
            while not self._closing:
                self._admit(llm)
                if llm.has_unfinished_requests():
                    finished = [output for output in llm.step() if output.finished]
                    if finished:
                        self._tell_loop(self._deliver, finished)
                else:
                    self._wake.wait()
                    self._wake.clear()
        except BaseException as error:
            self._lost = error
            self._tell_loop(self._fail_all, error)
        finally:
            with contextlib.suppress(Exception):
                llm.engine_core.shutdown()

    def _tell_loop(self, call: Callable[..., Any], *given: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for the answer
            self._loop.call_soon_threadsafe(call, *given)

    def _load(self) -> Any:
        prepare_environment()
        import vllm
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext

        on_cpu = current_platform.is_cpu()
        separate = self._settings.separate_process
        separate = not on_cpu if separate is None else separate
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(separate))
        arguments = vllm.EngineArgs(**self._arguments(on_cpu=on_cpu))
        config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
        self._configure(config)
        has_processes = separate or self._settings.tensor_parallel > 1
        with orphans.watch() if has_processes else contextlib.nullcontext():
            llm = vllm.LLMEngine.from_vllm_config(config, disable_log_stats=True)
        info = ModelInfo(
            name=self._files.name,
            revision=self._files.revision,
            engine=f"vllm {vllm.__version__}",
            context_length=llm.model_config.max_model_len,
            slots=llm.vllm_config.scheduler_config.max_num_seqs,
        )
        self._tell_loop(self._is_loaded, info)
        return llm

    def _admit(self, llm: Any) -> None:
        while self._inbox:
            key = self._inbox.popleft()
            request = self._requests.get(key)
            if request is None:
                llm.abort_request([key])
                continue
            try:
                parameters = self._parameters(request.sampling)
                llm.add_request(key, {"prompt_token_ids": request.prompt}, parameters)
            except ValueError as error:
                self._tell_loop(self._refuse, key, _last_line(error))

    # Everything below runs on the event loop.

    def _is_loaded(self, info: ModelInfo) -> None:
        if not self._loaded.done():
            self._loaded.set_result(info)

    def _not_loaded(self, error: EngineError) -> None:
        if not self._loaded.done():
            self._loaded.set_exception(error)

    def _tell(self, key: str) -> None:
        self._inbox.append(key)
        self._wake.set()

    def _refuse(self, key: str, why: str) -> None:
        request = self._requests.pop(key, None)
        if request is not None:
            _answer(request.answer, self._refusal(why))

    def _deliver(self, outputs: list[Any]) -> None:
        for output in outputs:
            request = self._requests.pop(output.request_id, None)
            if request is not None:
                _answer(request.answer, self._read(output))

    def _fail_all(self, error: BaseException) -> None:
        for request in self._requests.values():
            if not request.answer.done():
                request.answer.set_exception(EngineError(_death(error)))
        self._requests.clear()


class VllmEngine(VllmThread[Completion]):
    """The vLLM engine that writes."""

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """One completion; cancelling the call takes the request out of the engine."""
        if trouble := misfit(len(prompt), self.model.context_length):
            return Completion("", 0, "error", trouble)
        return await self._ask(prompt, sampling)

    def _arguments(self, *, on_cpu: bool) -> dict[str, Any]:
        return engine_arguments(self._settings, self._files, on_cpu=on_cpu)

    def _configure(self, config: Any) -> None:
        config.model_config.logits_processors = [first_token.VLLM[config.use_v2_model_runner]]

    def _parameters(self, sampling: Sampling | None) -> Any:
        assert sampling is not None
        return sampling_params(sampling)

    def _read(self, output: Any) -> Completion:
        (written,) = output.outputs
        reason, tokens, cached = written.finish_reason, len(written.token_ids), output.num_cached_tokens
        if reason in {"stop", "length", "repetition"}:
            return Completion(written.text, tokens, reason, cached_tokens=cached)
        return Completion(written.text, tokens, "error", f"vLLM ended the request: {reason}", cached)

    def _refusal(self, why: str) -> Completion:
        return Completion("", 0, "error", why)


def _answer(future: asyncio.Future[A], answer: A) -> None:
    if not future.done():
        future.set_result(answer)


def _death(error: BaseException) -> str:
    return (
        f"the vLLM engine died: {_last_line(error)}; run the same command again to go on from the last shard"
    )


def _advice(error: BaseException) -> str:
    if "memory" in str(error).lower():
        return "set a smaller `context_length`, `slots` or `gpu_memory`, or a larger `tensor_parallel`"
    return "MAGPIE_LOG=DEBUG shows all that vLLM says; `--engine transformers` may load it"


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


async def _open_scorer(model: Model, files: ModelFiles) -> Scorer:
    from magpie.engines.vllm.scoring import VllmScorer

    return await VllmScorer.open(model, files)


SPEC = EngineSpec(
    name="vllm",
    capabilities=Capabilities(separate_process=True),
    open=VllmEngine.open,
    open_scorer=_open_scorer,
    package="vllm",
    install="install magpie-synth[cpu] or [gpu], or use --engine transformers",
)
