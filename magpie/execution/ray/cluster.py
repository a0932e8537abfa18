"""The Ray cluster: joined or started here, what a worker takes of it, how many fit, and their actors."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from magpie.engines.gpus import built_for_gpus
from magpie.engines.vllm import orphans
from magpie.errors import EngineError
from magpie.recipe import Model
from magpie.text import counted

HEARTBEAT = "heartbeat"
"""The concurrency group of an actor that answers whether it lives, whatever its other calls are at."""

_STARTS = 3


@dataclass(frozen=True, slots=True)
class Resources:
    """What one worker takes of the cluster, all on one node: GPUs, and CPU cores to run Python on."""

    gpus: int
    cpus: int = 1

    def __str__(self) -> str:
        """In words: "2 GPUs and 1 CPU core"."""
        gpus = [counted(self.gpus, "GPU")] if self.gpus else []
        return " and ".join([*gpus, counted(self.cpus, "CPU core")])


def connect(address: str | None, *, cpus: int | None = None) -> bool:
    """Join the cluster at `address` ("auto" is the one of this machine), or start one here; whether it was started.

    Raises EngineError.
    """
    try:
        import ray
    except ImportError as error:
        raise EngineError(
            "--executor ray needs Ray, which is not installed; pip install 'magpie-synth[ray]'"
        ) from error
    if ray.is_initialized():
        return False
    # Ray counts rows and calls home unless it is told not to; the local cluster shows no page and no log of its own.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a CPU actor keeps CUDA_VISIBLE_DEVICES
    is_verbose = logging.getLogger().isEnabledFor(logging.DEBUG)
    options: dict[str, Any] = {"log_to_driver": is_verbose, "logging_level": "ERROR"}
    if address is None:
        options |= {"include_dashboard": False, "num_cpus": cpus}
    try:
        # A driver that is killed leaves processes of Ray behind, some for a minute: they are ended with it.
        with _own_signals(), orphans.watch():
            _join(address, options)
    except Exception as error:
        where = "start Ray here" if address is None else f"join the Ray cluster at {address}"
        raise EngineError(
            f"cannot {where}: {str(error).splitlines()[0]}; see that it is up with `ray status`"
        ) from error
    return address is None


def _join(address: str | None, options: dict[str, Any]) -> None:
    import ray

    for attempt in range(_STARTS):
        try:
            # "local" starts one: without it Ray would join a cluster that runs on this machine already.
            ray.init(address=address or "local", **options)
            return
        except Exception as error:
            # Ray allows its processes 30 seconds to start, which a busy machine may not keep.
            if attempt == _STARTS - 1 or "timed out during startup" not in str(error):
                raise
            ray.shutdown()


def resources_for(model: Model | None, *, loads: bool, may_grow: bool) -> Resources:
    """What a worker takes for a phase with this model, whose weights it `loads`.

    That is what the recipe and the installed libraries ask for, not what the cluster has at this moment: nodes with
    GPUs may still be on their way. Only of a cluster that cannot grow, none is asked for where there is none.
    """
    if model is None or not loads or model.device == "cpu" or not built_for_gpus():
        return Resources(0)
    return Resources(model.tensor_parallel if may_grow or _gpus() else 0)


def capacity(resources: Resources) -> int:
    """How many such workers the cluster's living nodes hold, were they empty."""
    fits = 0
    for node in _living():
        by_cpus = int(node.get("CPU", 0)) // resources.cpus
        fits += min(by_cpus, int(node.get("GPU", 0)) // resources.gpus) if resources.gpus else by_cpus
    return fits


def described() -> str:
    """What all nodes have together now, in words: "0 GPUs and 8 CPU cores"."""
    cores = sum(int(node.get("CPU", 0)) for node in _living())
    return f"{counted(_gpus(), 'GPU')} and {counted(cores, 'CPU core')}"


def living_nodes() -> int:
    """How many nodes the cluster has now."""
    return len(_living())


def has_node(node: str) -> bool:
    """Whether the cluster still has the node of this id."""
    import ray

    return any(each["NodeID"] == node and each["Alive"] for each in ray.nodes())


def node_of(group: Any) -> str:
    """The id of the node on which a placement group lies that is filled."""
    from ray.util.placement_group import placement_group_table

    return str(placement_group_table(group)["bundles_to_node_id"][0])


def reserve(resources: Resources) -> Any:
    """A placement group for one worker, all on one node. Ray fills it as soon as it can; an autoscaler sees it."""
    from ray.util.placement_group import placement_group

    bundle = {"CPU": float(resources.cpus)} | ({"GPU": float(resources.gpus)} if resources.gpus else {})
    return placement_group([bundle], strategy="STRICT_PACK")


def start(worker: type[Any], group: Any, resources: Resources, **arguments: Any) -> Any:
    """An actor of class `worker` in its placement group.

    Ray restarts it never: the driver does, and hands its shards out again.
    """
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    options = ray.remote(concurrency_groups={HEARTBEAT: 1})(worker).options(
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=4,
        scheduling_strategy=PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_capture_child_tasks=True
        ),
    )
    return options.remote(**arguments)


def release(actor: Any, group: Any) -> None:
    """End an actor, whatever it is at, and give its placement group back."""
    import ray
    from ray.util.placement_group import remove_placement_group

    if actor is not None:
        ray.kill(actor, no_restart=True)
    if group is not None:
        remove_placement_group(group)


def disconnect() -> None:
    """End the cluster that was started here."""
    import ray

    with _own_signals():
        ray.shutdown()


def _living() -> list[dict[str, float]]:
    """The resources of each living node."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _gpus() -> int:
    return sum(int(node.get("GPU", 0)) for node in _living())


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep our handlers of signals: Ray puts one of its own in the place of SIGTERM's."""
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
