"""The GPUs of this machine, counted without loading a library that would hold one, and their memory given back."""

from __future__ import annotations

import gc
import os
import runpy
import sys
from functools import cache
from importlib.util import find_spec
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


@cache
def built_for_gpus() -> bool:
    """Whether torch, on which all engines run that load weights, is built for GPUs. This machine may have none."""
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return False
    # Its versions lie in a file of their own: torch itself takes seconds to import, and may hold a GPU.
    build = runpy.run_path(str(Path(spec.submodule_search_locations[0], "version.py")))
    return any(build.get(kind) for kind in ("cuda", "hip"))
