"""vLLM's settings on a GPU: how many requests at once, how many tokens a step, which CUDA graphs.

vLLM's defaults are for a server that shall answer soon. Here throughput alone counts, so that they are worked out from
the model and the GPU's memory, by what `magpie plan` shows as well.
"""

from __future__ import annotations

import logging
from typing import Any

from magpie.models import ModelFiles
from magpie.recipe import Model
from magpie.sizing.cards import card_of_device
from magpie.sizing.fit import fit
from magpie.sizing.shapes import shape_in

_log = logging.getLogger(__name__)

_SLOTS = 512
"""For a model or a device of which nothing is known. vLLM takes waiting requests up as its cache has room for them."""


def device_here() -> tuple[str, int]:
    """What the driver calls the GPU, and its memory in bytes; 0 where it does not say."""
    from vllm.platforms import current_platform

    try:
        return current_platform.get_device_name(), current_platform.get_device_total_memory()
    except Exception as error:  # not every kind of device can be asked
        _log.info("the device does not say what it is (%s); using %d slots", error, _SLOTS)
        return "", 0


def gpu_arguments(model: Model, files: ModelFiles, *, device: str, memory: int) -> dict[str, Any]:
    """The arguments of `vllm.EngineArgs` that depend on the GPU. What the recipe sets stands as it is."""
    own: dict[str, Any] = {
        "gpu_memory_utilization": model.gpu_memory,
        "max_num_seqs": model.slots or _SLOTS,
    }
    if model.batched_tokens is not None:
        own["max_num_batched_tokens"] = model.batched_tokens
    if model.graph_sizes is not None:
        own["cudagraph_capture_sizes"] = list(model.graph_sizes)
    shape = shape_in(files.path, model.dtype)
    if shape is None or not memory:
        return own
    card = card_of_device(device)
    sizes = fit(
        shape,
        memory,
        tensor_parallel=model.tensor_parallel,
        gpu_memory=model.gpu_memory,
        context_length=model.context_length,
        row_tokens=model.row_tokens,
        is_a100=card is not None and card.name.startswith("a100"),
        slots=model.slots,
        batched_tokens=model.batched_tokens,
        graph_sizes=model.graph_sizes,
    )
    return own | {
        "max_num_seqs": sizes.slots,
        "max_num_batched_tokens": sizes.batched_tokens,
        "cudagraph_capture_sizes": list(sizes.graph_sizes),
    }
