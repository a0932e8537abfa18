"""vLLM with answers of forced lengths, for speed: a model that has none but random weights never ends by itself."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np

from benchmarks.recording import LentVllmEngine
from magpie.engines.base import Completion, Sampling
from magpie.engines.vllm.serve import as_options
from magpie.engines.vllm.settings import sampling_params
from magpie.sizing.lengths import DEVIATION, RESPONSE

# Each is one token in the tokenizer of any model that knows English.
_WORDS = (
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
)
_SPREAD = math.sqrt(math.log(1 + (DEVIATION / RESPONSE) ** 2))  # of the logarithm of lengths, as published


FIRST_RUNNER = {"VLLM_USE_V2_MODEL_RUNNER": "0"}
"""The environment in which vLLM takes its first model runner."""


def takes_processors() -> bool:
    """Whether vLLM's second model runner takes logits processors: in vLLM 0.25, for torch 2.11, it does not."""
    return find_spec("vllm.v1.worker.gpu.sample.logits_processor") is not None


class ForcedEngine(LentVllmEngine):
    """A VllmEngine whose answers have lengths drawn from a lognormal distribution by their seeds, and never end early.

    `means` are the mean tokens of an instruction, and of an answer: what asks for no more than `instruction_limit`
    tokens is an instruction. Without weights (`is_dummy`) nothing that is written is a text: as many words stand in for
    it, so that the pipeline goes on as with a real model.
    """

    means: ClassVar[tuple[float, float]] = (45.0, 430.0)
    instruction_limit: ClassVar[int] = 2048
    is_dummy: ClassVar[bool] = False

    def _arguments(self, *, on_cpu: bool) -> dict[str, Any]:
        arguments = super()._arguments(on_cpu=on_cpu)
        return arguments | {"load_format": "dummy"} if self.is_dummy else arguments

    @property
    def options(self) -> list[str]:
        """The engine's arguments as the words of a command of vLLM's."""
        from vllm.platforms import current_platform

        return as_options(self._arguments(on_cpu=current_platform.is_cpu()))

    def _configure(self, config: Any) -> None:
        # Speed is that of the second runner, which every vLLM that magpie allows takes where there is a GPU.
        if takes_processors() or not config.use_v2_model_runner:
            super()._configure(config)

    def _parameters(self, sampling: Sampling | None) -> Any:
        assert sampling is not None
        is_instruction = sampling.max_tokens <= self.instruction_limit
        mean = self.means[0 if is_instruction else 1]
        drawn = np.random.default_rng(sampling.seed).lognormal(np.log(mean) - _SPREAD**2 / 2, _SPREAD)
        length = int(min(max(drawn, 1), sampling.max_tokens))
        return self.forced(replace(sampling, max_tokens=length))

    def forced(self, sampling: Sampling) -> Any:
        """vLLM's parameters for an answer of `max_tokens` tokens, no more and no fewer."""
        params = sampling_params(replace(sampling, stop_ids=(), stop=()))
        params.ignore_eos = True
        return params

    def _read(self, output: Any) -> Completion:
        done = super()._read(output)
        draw = random.Random(output.request_id)
        words = [draw.choice(_WORDS) for _ in range(done.token_count)] if self.is_dummy else done.text.split()
        # Of a whole text: an instruction that is cut by length is out, and nothing here is to be lost.
        return Completion(
            " ".join(words) or "word", done.token_count, "stop", cached_tokens=done.cached_tokens
        )
