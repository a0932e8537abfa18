"""A cluster of several nodes under a running build: one joins, one is killed. Real nodes of Ray, on this machine."""

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
        # By the command, as an operator does: Ray's own helper for tests sets signal handlers, in no thread but one.
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
        with subprocess.Popen(
            [*command, f"--address={cluster.address}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as node:
            try:
                while len([place for place in list(executor._places.values()) if place.node]) < 2:
                    time.sleep(0.05)
                workers.extend(place.node for place in list(executor._places.values()))
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
