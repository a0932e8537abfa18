"""vLLM's settings: its environment, its engine arguments for a model, and the sampling parameters of a request."""

from __future__ import annotations

import logging
import os
from typing import Any

from magpie import machine
from magpie.engines import first_token
from magpie.engines.base import REPEATED_TIMES, REPEATED_UNIT, Sampling
from magpie.engines.vllm.sizing import device_here, gpu_arguments
from magpie.errors import EngineError
from magpie.models import ModelFiles
from magpie.models.tokenizer import open_tokenizer
from magpie.recipe import Model
from magpie.sizing.shapes import shape_in

_log = logging.getLogger(__name__)

_CPU_SLOTS = 256
_CPU_BATCHED_TOKENS = 16384
_GIB = 1 << 30
_CPU_WORKING_MEMORY = 300 << 20  # the tensors of a step, and what the libraries take once they are at work
_CPU_LEAST_CACHE = 128 << 20


def prepare_environment() -> None:
    """Set vLLM's environment variables. Call it before vLLM is imported, which reads them once."""
    is_verbose = logging.getLogger("magpie").isEnabledFor(logging.DEBUG)
    for key, value in (
        ("VLLM_LOGGING_LEVEL", "DEBUG" if is_verbose else "ERROR"),
        ("VLLM_LOGGING_STREAM", "ext://sys.stderr"),  # standard output is for what was asked for
        ("VLLM_NO_USAGE_STATS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("TQDM_DISABLE", "1"),
        # A child is started with `python -c`, which puts the current folder first on its path: a file lying there, such
        # as `pickle.py`, would run.
        ("PYTHONSAFEPATH", "1"),
    ):
        os.environ.setdefault(key, value)
    # Whatever it was: a forked child would hold our run's lock and the watcher's pipe, and would not carry the mark of
    # `orphans.watch`, so that it would outlive us and keep the GPU.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"


def engine_arguments(model: Model, files: ModelFiles, *, on_cpu: bool) -> dict[str, Any]:
    """The arguments of `vllm.EngineArgs` for a model that writes."""
    arguments: dict[str, Any] = {
        "model": str(files.path),
        **_tokenizer(files, model),
        "dtype": model.dtype,
        "max_model_len": _context_length(files, model),
        "tensor_parallel_size": model.tensor_parallel,
        "trust_remote_code": model.trust_remote_code,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "load_format": "safetensors",
        # Not the model's own generation_config.json: every request sets its sampling and its stops.
        "generation_config": "vllm",
        # Else the grammar lets a model write spaces in its JSON for ever. A request has this switch too, but vLLM does
        # not read it there.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    if model.tensor_parallel > 1:
        # Inside an actor of Ray's vLLM would take Ray for its own workers too, with a bundle for each GPU, where ours
        # is one bundle with all GPUs of the engine. They are on one node in any case.
        arguments["distributed_executor_backend"] = "mp"
    if not on_cpu:
        device, memory = device_here()
        return arguments | gpu_arguments(model, files, device=device, memory=memory)
    dtype = model.dtype
    if dtype == "auto":
        dtype = "bfloat16" if machine.computes_in_bfloat16() else "float32"
    # On a CPU, a request with a seed fails when its prompt is prefilled in chunks. So prompts are never split, and one
    # step must have room for the longest prompt.
    return arguments | {
        "max_num_seqs": model.slots or _CPU_SLOTS,
        "enforce_eager": True,
        "dtype": dtype,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(_CPU_BATCHED_TOKENS, model.context_length),
        "kv_cache_memory_bytes": _cpu_cache_bytes(files, dtype),
    }


def scorer_arguments(model: Model, files: ModelFiles, *, on_cpu: bool) -> dict[str, Any]:
    """The arguments of `vllm.EngineArgs` for a reward model."""
    arguments = engine_arguments(model, files, on_cpu=on_cpu)
    for key in ("generation_config", "structured_outputs_config"):
        del arguments[key]
    if not on_cpu:
        # Its requests are prompts, which are not captured, and a whole one has to fit in a step.
        arguments.pop("cudagraph_capture_sizes", None)
        if "max_num_batched_tokens" in arguments:
            longest = max(arguments["max_num_batched_tokens"], arguments["max_model_len"])
            arguments["max_num_batched_tokens"] = longest
    # No prefix caching: conversations share no more than the beginning of the template.
    return arguments | {"runner": "pooling", "convert": "classify", "enable_prefix_caching": False}


def sampling_params(sampling: Sampling) -> Any:
    """`sampling` as a `vllm.SamplingParams`."""
    from vllm import SamplingParams
    from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind, StructuredOutputsParams

    greedy = sampling.temperature == 0
    schema = sampling.schema
    shortest, longest = REPEATED_UNIT
    repetition = RepetitionDetectionParams(
        min_pattern_size=shortest, max_pattern_size=longest, min_count=REPEATED_TIMES
    )
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=1.0 if greedy else sampling.top_p,
        top_k=0 if greedy else sampling.top_k,
        min_p=0.0 if greedy else sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        seed=None if greedy else sampling.seed,
        stop_token_ids=list(sampling.stop_ids),
        stop=list(sampling.stop),
        skip_special_tokens=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=StructuredOutputsParams(json=schema) if schema else None,
        repetition_detection=repetition if sampling.stop_repetition else None,
        extra_args=first_token.extra_args(hold_back=sampling.hold_back, divisor=sampling.first_token_divisor),
        skip_clone=True,
    )


def _tokenizer(files: ModelFiles, model: Model) -> dict[str, str]:
    """The arguments that make vLLM read the tokenizer as prompts are written with: none where it does so anyway."""
    opened = open_tokenizer(files.path, files.name, trust_remote_code=model.trust_remote_code)
    # "auto" is Mistral's own tokenizer where its file is there, whatever else is.
    mode = {"tokenizer_mode": "hf"} if (files.path / "tekken.json").is_file() else {}
    return mode if opened.folder == files.path else {"tokenizer": str(opened.folder), **mode}


def _cpu_cache_bytes(files: ModelFiles, dtype: str) -> int:
    """Memory for the key-value cache: an eighth of what this process may still take, between 1 and 8 GiB.

    Where a GiB is more than a quarter of that, as in a small container, it is a quarter. Raises EngineError where the
    weights do not fit: the kernel would end the process without a word.
    """
    free, stored = (
        machine.free_memory(),
        sum(path.stat().st_size for path in files.path.glob("*.safetensors")),
    )
    shape = shape_in(files.path, dtype)
    weights = max(stored, int(shape.weights)) if shape else stored  # 16 bits in the files may be 32 here
    left = free - weights - _CPU_WORKING_MEMORY
    if left < _CPU_LEAST_CACHE:
        needed = weights + _CPU_WORKING_MEMORY + _CPU_LEAST_CACHE
        raise EngineError(
            f"{files.name} takes about {needed / 1e9:.1f} GB of memory to run, and this process may take "
            f"{free / 1e9:.1f} GB more; give it more memory, or take a smaller model, or leave out what else is "
            "loaded, such as language detection (1.3 GB): --set language=null"
        )
    return min(max(free // 8, min(_GIB, free // 4)), 8 * _GIB, left)


def _context_length(files: ModelFiles, model: Model) -> int:
    """The recipe's context length, or the model's own where that is shorter."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(files.path, trust_remote_code=model.trust_remote_code)
    longest = getattr(config.get_text_config(), "max_position_embeddings", None) or model.context_length
    if longest < model.context_length:
        _log.warning("%s was made for %d tokens of context; using that", files.name, longest)
    return int(min(longest, model.context_length))
