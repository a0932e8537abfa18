"""How fast a model can write on a card: a step of the engine reads all weights once, and calculates for every request.

    step = weights / bandwidth                                   read once, for all requests
         + slots * (1 + prompt / output) * 2 * weights / flops   their tokens, and their share of the prompts
         + slots * KV cache of a request / bandwidth             what attention reads
         + layers * 20 us                                        starting the kernels
         + what goes between the GPUs of one engine              two all-reduces a layer

It is an upper bound: it knows no scheduler, and no tail of the longest rows. The shares of the maker's figures that are
reached, below, were fitted to five rows of aiconfigurator 0.12 (NVIDIA's measured kernel tables; 45 tokens in, 430
out): it is within 17 % of all eleven figures in them.
"""

from __future__ import annotations

from dataclasses import dataclass

from magpie.sizing.cards import Card
from magpie.sizing.shapes import ModelShape

FLOPS_REACHED = 0.8
CACHE_BANDWIDTH_REACHED = 0.8
LINK_REACHED = 0.3
LAYER_SECONDS = 20e-6


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a row, on average: tokens of its prompt and of the completion, 0 where nothing is written.

    `shared` of the prompt's tokens are the same for all rows, and calculated once. A row makes `count` of it.
    """

    prompt: float
    output: float
    shared: float = 0.0
    count: float = 1.0

    @property
    def tokens(self) -> float:
        """What it holds of the KV cache at its end, alone: a prompt's beginning that all share is there once."""
        return self.prompt - self.shared + self.output


def step_seconds(
    shape: ModelShape, card: Card, request: Request, slots: float, tensor_parallel: int
) -> float:
    """The time in which each of `slots` running requests gets a token, in seconds."""
    fresh = 1 + (request.prompt - request.shared) / request.output
    weights = shape.weights / (tensor_parallel * card.bandwidth)
    tokens = slots * fresh * _token_seconds(shape, card, tensor_parallel)
    attention = slots * shape.cache_bytes(request.prompt + request.output / 2)
    attention /= CACHE_BANDWIDTH_REACHED * min(tensor_parallel, shape.kv_heads) * card.bandwidth
    between = _between_gpus(shape, card, slots * fresh, tensor_parallel)
    return weights + tokens + attention + between + shape.layers * LAYER_SECONDS


def requests_per_second(
    shape: ModelShape, card: Card, request: Request, slots: float, tensor_parallel: int = 1
) -> float:
    """How many such requests one engine answers in a second, on `tensor_parallel` GPUs."""
    if request.output:
        return slots / (request.output * step_seconds(shape, card, request, slots, tensor_parallel))
    # Nothing is written: the prompt goes through the model once, and steps are so large that weights do not count.
    tokens = max(request.prompt - request.shared, 1.0)
    seconds = tokens * _token_seconds(shape, card, tensor_parallel)
    return 1 / (seconds + _between_gpus(shape, card, tokens, tensor_parallel))


def _token_seconds(shape: ModelShape, card: Card, tensor_parallel: int) -> float:
    flops = card.fp8_flops if shape.weight_bytes == 1 and card.fp8_flops else card.flops
    return 2 * shape.active / (FLOPS_REACHED * tensor_parallel * flops)


def _between_gpus(shape: ModelShape, card: Card, tokens: float, tensor_parallel: int) -> float:
    """Two all-reduces of every token's values a layer, in 16 bits."""
    if tensor_parallel == 1:
        return 0.0
    sent = 2 * (tensor_parallel - 1) / tensor_parallel * tokens * shape.hidden * 2
    return 2 * shape.layers * sent / (LINK_REACHED * card.link)
