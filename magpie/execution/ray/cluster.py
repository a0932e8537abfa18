"""The Ray cluster: joined or started here, how many workers fit, and where each one is placed."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from magpie.engines.vllm import orphans
from magpie.errors import EngineError
from magpie.recipe import Model

BEAT = "beat"
"""The threads in an actor that say that it lives, whatever the others are at."""


_STARTS = 3


@dataclass(frozen=True, slots=True)
class Needs:
    """What one worker takes of the cluster: `gpus` on one node, and CPU cores to run Python on."""

    gpus: int
    cpus: int = 1


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


def needs_of(model: Model | None, *, loads: bool) -> Needs:
    """What a worker needs for a phase with this model. Where the cluster has no GPU, none is asked for."""
    import ray

    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    if model is None or not loads or not has_gpus:
        return Needs(0)
    return Needs(model.tensor_parallel)


def capacity(needs: Needs) -> int:
    """How many such workers the cluster's living nodes hold, were they empty."""
    import ray

    fits = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            by_cpus = int(has.get("CPU", 0)) // needs.cpus
            fits += min(by_cpus, int(has.get("GPU", 0)) // needs.gpus) if needs.gpus else by_cpus
    return fits


def living_nodes() -> int:
    """How many nodes the cluster has now."""
    import ray

    return sum(1 for node in ray.nodes() if node["Alive"])


def reserve(needs: Needs) -> Any:
    """A placement group for one worker: all of its GPUs on one node."""
    from ray.util.placement_group import placement_group

    bundle = {"CPU": float(needs.cpus)} | ({"GPU": float(needs.gpus)} if needs.gpus else {})
    return placement_group([bundle], strategy="STRICT_PACK")


def start(worker: type[Any], group: Any, needs: Needs, **arguments: Any) -> Any:
    """An actor of class `worker` in its placement group.

    Ray restarts it never: the driver does, and hands its shards out again.
    """
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    options = ray.remote(concurrency_groups={BEAT: 1})(worker).options(
        num_cpus=needs.cpus,
        num_gpus=needs.gpus,
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=4,
        scheduling_strategy=PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_capture_child_tasks=True
        ),
    )
    return options.remote(**arguments)


def release(actor: Any, group: Any) -> None:
    """End an actor, whatever it is at, and give its place back."""
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
