"""What a worker takes of a cluster: said by the recipe and the installed libraries, not by what there is right now."""

from __future__ import annotations

import pytest

from magpie.execution.ray.cluster import Resources, resources_for
from magpie.recipe import Model

PLAIN = Model(model="some/model", tensor_parallel=2)


@pytest.mark.parametrize(
    ("model", "loads", "gpu_build", "may_grow", "gpus"),
    [
        (PLAIN, True, True, True, 2),
        (PLAIN, True, False, True, 0),  # the CPU build
        (PLAIN.model_copy(update={"device": "cpu"}), True, True, True, 0),
        (PLAIN, False, True, True, 0),  # a server has the weights
        (None, True, True, True, 0),
        (PLAIN, True, True, False, 0),  # this machine alone, and it has no GPU
    ],
)
def test_a_worker_takes_what_its_engine_runs_on(
    monkeypatch: pytest.MonkeyPatch,
    model: Model | None,
    loads: bool,
    gpu_build: bool,
    may_grow: bool,
    gpus: int,
) -> None:
    monkeypatch.setattr("magpie.execution.ray.cluster.built_for_gpus", lambda: gpu_build)
    monkeypatch.setattr("magpie.execution.ray.cluster._gpus", lambda: 0)
    assert resources_for(model, loads=loads, may_grow=may_grow) == Resources(gpus)


def test_resources_in_words() -> None:
    assert [str(Resources(gpus)) for gpus in range(3)] == [
        "1 CPU core", "1 GPU and 1 CPU core", "2 GPUs and 1 CPU core",
    ]  # fmt: skip
