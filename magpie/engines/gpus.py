"""The GPUs of this machine, counted without loading a library that would hold one, and their memory given back."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path


def free_gpu_memory() -> None:
    """Give back what torch keeps of a GPU for tensors that are gone: another library could not have it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def gpus_here() -> int:
    """How many NVIDIA GPUs this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in {"", "-1"}])
    return sum(1 for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit())
