"""How a model is put on a GPU: what its weights leave to the KV cache, and how many requests that holds.

The slots take 80 % of the KV cache at its peak. More is worth nothing: on a B200, 3,072 slots made 18,300 tokens/s and
4,096 made vLLM take running requests back, and no more rows (a campaign of 2026).
"""

from __future__ import annotations

from dataclasses import dataclass

from magpie.sizing.shapes import ModelShape

SHARE_OF_CACHE = 0.8
MOST_SLOTS = 3072
TYPICAL_TOKENS = 475
"""Tokens of prompt and response together: about 45 and 430 in Magpie-Air (arXiv 2406.08464)."""

_GIB = 1 << 30
_BLOCK = 16  # tokens; vLLM gives the KV cache out in blocks
_OWN = 1.5 * _GIB  # the libraries' kernels and buffers, and the CUDA graphs
_LARGE = 70 * _GIB
_TENSOR_PARALLEL = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Fit:
    """A model on GPUs, and the settings that it is run with. Sizes are in bytes and for one GPU.

    `slots` is how many requests run at once, `batched_tokens` the most tokens of one step of the engine, and
    `graph_sizes` the batch sizes for which CUDA graphs are captured. `row_tokens` is what a request holds at its end.
    `fits` says that the cache holds at least one request of the longest kind.
    """

    tensor_parallel: int
    memory: int
    usable: float
    weights: float
    working: float
    cache: float
    slots: int
    batched_tokens: int
    graph_sizes: tuple[int, ...]
    row_tokens: int
    fits: bool


def fit(
    shape: ModelShape,
    memory: int,
    *,
    tensor_parallel: int = 1,
    gpu_memory: float = 0.9,
    context_length: int = 4096,
    row_tokens: int | None = None,
    is_a100: bool = False,
    slots: int | None = None,
    batched_tokens: int | None = None,
    graph_sizes: tuple[int, ...] | None = None,
) -> Fit:
    """The settings for a model on GPUs of so much `memory` each. The last three, where given, stand as they are.

    `row_tokens` is how many tokens a request holds at its end, on average.
    """
    # vLLM's own choice, but for the slots: larger steps are slower on an A100.
    tokens = batched_tokens or (16384 if memory >= _LARGE and not is_a100 else 8192)
    usable = memory * gpu_memory
    weights = shape.weights / tensor_parallel
    working = _OWN + _activations(shape, tokens, tensor_parallel)
    cache = max(usable - weights - working, 0.0)
    held = min(row_tokens or TYPICAL_TOKENS, context_length)
    held = -(-held // _BLOCK) * _BLOCK
    # Where there are more GPUs than key-value heads, each of them holds a copy.
    split = min(tensor_parallel, shape.kv_heads)
    room = int(SHARE_OF_CACHE * cache // (shape.cache_bytes(held) / split))
    chosen = slots or min(max(room // 8 * 8, 8), MOST_SLOTS)
    return Fit(
        tensor_parallel=tensor_parallel,
        memory=memory,
        usable=usable,
        weights=weights,
        working=working,
        cache=cache,
        slots=chosen,
        # A running request takes a token of every step: what is left over is for new prompts.
        batched_tokens=batched_tokens or max(tokens, 2 * chosen),
        graph_sizes=graph_sizes or _graph_sizes(chosen),
        row_tokens=held,
        fits=cache >= shape.cache_bytes(context_length) / split,
    )


def smallest_tensor_parallel(
    shape: ModelShape, memory: int, *, gpu_memory: float = 0.9, context_length: int = 4096
) -> int | None:
    """Over how few GPUs the model has to be split to fit; None where 8 are not enough."""
    for size in _TENSOR_PARALLEL:
        if shape.heads % size == 0:
            settings = {"gpu_memory": gpu_memory, "context_length": context_length}
            done = fit(shape, memory, tensor_parallel=size, **settings)  # type: ignore[arg-type]
            # One that leaves hardly any room for requests reads all its weights for a few tokens.
            if done.fits and done.slots >= 32:
                return size
    return None


def _activations(shape: ModelShape, tokens: int, tensor_parallel: int) -> float:
    """What a step of so many tokens takes beside weights and cache: a layer's values, and 1,024 rows of logits."""
    layer = tokens * (4 * shape.hidden + 3 * shape.intermediate / tensor_parallel) * 2
    return layer + 1024 * shape.vocabulary * 8


def _graph_sizes(slots: int) -> tuple[int, ...]:
    """Close together where batches are small, and the slots themselves at the end."""
    sizes = [1, 2, 4, *range(8, 257, 8), *range(272, 513, 16), *range(544, 1025, 32), *range(1088, 4097, 64)]
    return (*(size for size in sizes if size < slots), slots)
