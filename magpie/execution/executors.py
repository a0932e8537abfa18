"""Which executor a build runs on."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Literal, get_args

from magpie.engines import find_engine
from magpie.engines.gpus import gpus_here
from magpie.errors import RecipeError
from magpie.execution.base import Executor
from magpie.execution.local import LocalExecutor
from magpie.plan import Plan

_log = logging.getLogger(__name__)

ExecutorName = Literal["auto", "local", "ray"]


def open_executor(
    name: str, plan: Plan, *, address: str | None = None, replicas: int | None = None
) -> Executor:
    """The executor of that name. "auto" is Ray where there are GPUs for several engines, or where a cluster is named.

    Raises RecipeError for a name that there is not, and for settings that only Ray knows.
    """
    if name not in get_args(ExecutorName):
        raise RecipeError(f"executor {name!r} is not known; use one of: {', '.join(get_args(ExecutorName))}")
    if replicas is not None and replicas < 1:
        raise RecipeError(f"--replicas {replicas}: give 1 or more")
    asks_for_ray = address is not None or replicas is not None
    if name == "local" and asks_for_ray:
        raise RecipeError("--address and --replicas are for --executor ray; leave them out, or give that")
    if name == "ray" or (name == "auto" and (asks_for_ray or _gains_by_ray(plan))):
        from magpie.execution.ray import RayExecutor

        return RayExecutor(address, replicas=replicas)
    return LocalExecutor()


def _gains_by_ray(plan: Plan) -> bool:
    """Whether some phase's model fits more than once on the GPUs of this machine."""
    gpus = gpus_here()
    models = [phase.model for phase in plan.phases if phase.needs_engine and phase.model is not None]
    models = [model for model in models if model.device != "cpu"]
    loads = [model for model in models if find_engine(model.engine).capabilities.loads_weights]
    if not any(gpus // model.tensor_parallel > 1 for model in loads):
        return False
    if find_spec("ray") is None:
        _log.warning(
            "%d GPUs are here and one engine is run; pip install 'magpie-synth[ray]', and it runs on all of them",
            gpus,
        )
        return False
    return True
