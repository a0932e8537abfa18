"""Engines that are watched while a build uses them, and stay loaded from one build to the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from magpie.engines.base import Completion, Engine, ModelInfo, Sampling
from magpie.engines.vllm import VllmEngine
from magpie.plan import make_plan
from magpie.recipe import Model, Recipe

T = TypeVar("T")


@dataclass(frozen=True, slots=True, order=True)
class Moment:
    """Seconds on a monotonic clock, and CPU seconds of this process, all threads together."""

    clock: float
    cpu: float

    @classmethod
    def now(cls) -> Moment:
        """This moment."""
        return cls(time.perf_counter(), time.process_time())


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a build, when it was made and answered, and how many tokens came back."""

    prompt: Sequence[int]
    sampling: Sampling
    tokens: int
    began: Moment
    ended: Moment


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens generated, and the seconds and CPU seconds from the first request to the last completion."""

    tokens: int
    seconds: float
    cpu: float

    @classmethod
    def between(cls, began: Moment, ended: Moment, tokens: int) -> Work:
        """The work done from one moment to another."""
        return cls(tokens, ended.clock - began.clock, ended.cpu - began.cpu)

    @classmethod
    def of(cls, asked: Sequence[Asked]) -> Work:
        """The work in these requests."""
        if not asked:
            return NO_WORK
        began, ended = min(one.began for one in asked), max(one.ended for one in asked)
        return cls.between(began, ended, sum(one.tokens for one in asked))

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.seconds + other.seconds, self.cpu + other.cpu)


NO_WORK = Work(0, 0.0, 0.0)


def planned_model(recipe: Recipe) -> Model:
    """The model that a build of the recipe opens its engine with, where every role is one model."""
    wanted = {repr(phase.model): phase.model for phase in make_plan(recipe).phases if phase.needs_engine}
    ((_, model),) = wanted.items()
    assert model is not None
    return model


class LentVllmEngine(VllmEngine):
    """A VllmEngine that lends vLLM's own engine to other code, in the thread that loaded it.

    The CPU build computes with threads that belong to the one that loaded the model: a bare loop is slower, and so no
    fair measure, in any other.
    """

    _errand: tuple[Callable[[Any], Any], Future[Any]] | None = None

    def join_loop(self) -> None:
        """Answer on the running event loop from now on: each build has a loop of its own."""
        self._loop = asyncio.get_running_loop()

    def lend(self, errand: Callable[[Any], T]) -> T:
        """What `errand`, given vLLM's LLMEngine, returns. Only while no build runs."""
        answer: Future[T] = Future()
        self._errand = (errand, answer)
        self._wake.set()
        return answer.result()

    def _admit(self, llm: Any) -> None:
        if self._errand is not None:
            (errand, answer), self._errand = self._errand, None
            try:
                answer.set_result(errand(llm))
            except BaseException as error:
                answer.set_exception(error)
        super()._admit(llm)


class Recorder:
    """The engine as a build sees it: every request is written down, and closing it leaves it loaded."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.asked: list[Asked] = []

    @property
    def model(self) -> ModelInfo:
        """The model of the engine behind."""
        return self.engine.model

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """The engine's completion, written down."""
        began = Moment.now()
        completion = await self.engine.complete(prompt, sampling)
        self.asked.append(Asked(prompt, sampling, completion.token_count, began, Moment.now()))
        return completion

    async def close(self) -> None:
        """Leaves the engine as it is."""

    def take(self) -> list[Asked]:
        """What was asked since the last call, in the order in which it was asked."""
        asked, self.asked = sorted(self.asked, key=lambda one: one.began), []
        return asked


def bare_loop(engine: LentVllmEngine, requests: Sequence[tuple[Sequence[int], Any]]) -> Work:
    """Prompts, each with vLLM's parameters, through a loop that does nothing else: the work from first to last."""
    prompts = [({"prompt_token_ids": list(prompt)}, params) for prompt, params in requests]

    def loop(llm: Any) -> Work:
        llm.reset_prefix_cache()
        tokens, began = 0, Moment.now()
        for number, (prompt, params) in enumerate(prompts):
            llm.add_request(f"bare-{number}", prompt, params)
        while llm.has_unfinished_requests():
            for output in llm.step():
                tokens += len(output.outputs[0].token_ids)
        return Work.between(began, Moment.now(), tokens)

    return engine.lend(loop)
