"""vLLM with answers of forced lengths, and models that have a shape and no weights: for speed, which needs no sense."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.recording import LentVllmEngine
from magpie.engines.base import Completion, Sampling
from magpie.engines.vllm.serve import as_options
from magpie.engines.vllm.settings import sampling_params
from magpie.models import ModelFiles, resolve
from magpie.recipe import Model

LLAMA_3_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
"""Llama-3-8B's published configuration, as far as it decides the speed."""

_WORDS = tuple(f"word{number}" for number in range(1000))
_SPREAD = 0.7  # of the logarithm of lengths


def make_shape(folder: Path, shape: dict[str, Any]) -> ModelFiles:
    """A model folder with this configuration, the demo model's tokenizer and no weights."""
    demo = resolve(Model(model="demo")).path
    for path in demo.iterdir():
        if path.name.startswith(("tokenizer", "special_tokens", "vocab", "merges", "chat_template")):
            shutil.copy(path, folder / path.name)
    (folder / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    return ModelFiles("shape", folder, "local")


class ForcedEngine(LentVllmEngine):
    """A VllmEngine whose answers have lengths drawn from a lognormal distribution by their seeds, and never end early.

    `means` are the mean tokens of an instruction, and of an answer: what asks for no more than `instruction_limit`
    tokens is an instruction. Without weights (`is_dummy`) nothing that is written is a text: made-up words of about
    that length stand in for it, so that the pipeline goes on as with a real model.
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
        params.detokenize = not self.is_dummy  # the shape's vocabulary may have more ids than the tokenizer
        return params

    def _read(self, output: Any) -> Completion:
        done = super()._read(output)
        draw = random.Random(output.request_id)
        words = [draw.choice(_WORDS) for _ in range(done.token_count)] if self.is_dummy else done.text.split()
        # Of a whole text: an instruction that is cut by length is out, and nothing here is to be lost.
        return Completion(
            " ".join(words) or "word", done.token_count, "stop", cached_tokens=done.cached_tokens
        )
