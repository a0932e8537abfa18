"""A cluster whose nodes join and are killed under a running build. Real nodes of Ray, on this machine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from builds import small_recipe, tree

from magpie.build import build
from magpie.engines import open_engine
from magpie.engines.base import Completion, Engine, ModelInfo, Sampling
from magpie.execution.ray import RayExecutor
from magpie.recipe import Model
from magpie.runs.verify import verify

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster() -> Iterator[Any]:
    """One node with room for one worker."""
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_node_joins_and_is_killed(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magpie.execution.ray._LOOK_FOR_NODES", 0.5)
    build(small_recipe(), tmp_path / "local", executor="local")
    go_on = tmp_path / "go on"
    executor = RayExecutor(cluster.address, engines=partial(waiting_engine, str(go_on)))
    workers, killed = list[str](), list[int]()

    log = tmp_path / "ray" / "log.jsonl"

    def join_and_kill() -> None:
        shards = tmp_path / "ray" / "steps"
        while not any(shards.rglob("*.parquet")):
            time.sleep(0.05)
        with new_node(cluster) as node:
            try:
                while len([replica for replica in list(executor._replicas.values()) if replica.node]) < 2:
                    time.sleep(0.05)
                workers.extend(replica.node for replica in list(executor._replicas.values()))
                time.sleep(1)  # it has begun with shards
                for process in psutil.Process(node.pid).children(recursive=True):
                    if process.name() == "raylet":
                        process.kill()
                        killed.append(process.pid)
                # No shard goes on before, so that what the node had begun with is lost with it.
                while "lost" not in log.read_text():
                    time.sleep(0.05)
            finally:
                go_on.touch()
                node.wait(60)

    meddler = threading.Thread(target=join_and_kill, daemon=True)
    meddler.start()
    run = build(small_recipe(), tmp_path / "ray", executor=executor)
    meddler.join(90)
    asyncio.run(executor.close())
    assert len(killed) == 1
    assert len(set(workers)) == 2, "the new node got a worker"
    assert "lost" in log.read_text(), "and the build went on without it"
    assert verify(run) == []
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


def test_workers_wait_for_a_node_with_a_gpu_and_begin_when_it_joins(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster without a GPU at the moment, such as one whose nodes still come: nothing begins without."""
    monkeypatch.setattr("magpie.execution.ray._LOOK_FOR_NODES", 0.5)
    # As it would be with a real model on a machine whose libraries are built for GPUs.
    monkeypatch.setattr("magpie.execution.ray._loads_weights", lambda phase: phase.needs_engine)
    monkeypatch.setattr("magpie.execution.ray.cluster.built_for_gpus", lambda: True)
    build(small_recipe(), tmp_path / "local", executor="local")
    executor = RayExecutor(cluster.address)
    log, made_before = tmp_path / "ray" / "log.jsonl", list[Path]()
    over = threading.Event()

    def join() -> None:
        while not (log.exists() and "wait for room" in log.read_text()):
            time.sleep(0.05)
        made_before.extend((tmp_path / "ray" / "steps").rglob("*.parquet"))
        with new_node(cluster, "--num-gpus=1") as node:
            over.wait(120)
            node.terminate()

    joining = threading.Thread(target=join, daemon=True)
    joining.start()
    run = build(small_recipe(), tmp_path / "ray", executor=executor)
    asyncio.run(executor.close())
    over.set()
    joining.join(90)
    assert made_before == []
    said = log.read_text()
    assert said.count("1 of 1 workers wait for room on the Ray cluster") == 1
    assert "each takes 1 GPU and 1 CPU core of one node, and it has 1 node with 0 GPUs and 1 CPU core" in said
    assert verify(run) == []
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


def new_node(cluster: Any, *options: str) -> subprocess.Popen[bytes]:
    """A node that joins, by the command, as an operator does it: Ray's helper for tests needs the main thread."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", *options]
    return subprocess.Popen(
        [*command, f"--address={cluster.address}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


class Waiting:
    """The engine; after a shard's worth of completions it waits for a file to be there."""

    def __init__(self, engine: Engine, file: str) -> None:
        self._engine, self._file, self._given = engine, Path(file), 0

    @property
    def model(self) -> ModelInfo:
        return self._engine.model

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        self._given += 1
        while self._given > 16 and not self._file.exists():
            await asyncio.sleep(0.05)
        return await self._engine.complete(prompt, sampling)

    async def close(self) -> None:
        await self._engine.close()


async def waiting_engine(file: str, model: Model) -> Engine:
    return Waiting(await open_engine(model), file)
