"""Workers on Ray: the same rows as in one process, whatever dies on the way. A real Ray on this machine, no GPU."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from builds import small_recipe, tree
from standing import same_as

from magpie.build import build
from magpie.engines import open_engine
from magpie.engines.base import Completion, Engine, ModelInfo, Sampling
from magpie.errors import EngineError
from magpie.execution.ray import RayExecutor
from magpie.recipe import Model
from magpie.runs.verify import verify

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.slow

JUDGED = 200  # tokens of a judge's answer, by which a request for one is told from others


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of this process, for all builds of this file: starting one takes seconds."""
    from magpie.execution.ray.cluster import connect, disconnect

    # Ray's workers cannot import a test's module: the engines in it travel as code.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    connect(None, cpus=4)
    yield
    disconnect()


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_the_dataset_is_that_of_one_process(tmp_path: Path, cluster: None, replicas: int) -> None:
    build(small_recipe(), tmp_path / "local", executor="local")
    run = build(small_recipe(), tmp_path / "ray", executor="ray", replicas=replicas)
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")
    assert verify(run) == []


def test_workers_take_over_the_rows_that_stand(tmp_path: Path, cluster: None) -> None:
    build(small_recipe(rows=40), tmp_path / "run", executor="ray", replicas=2)
    build(small_recipe(), tmp_path / "run", executor="ray", replicas=2)
    judged = small_recipe(tag={"max_tokens": JUDGED})
    executor = RayExecutor(replicas=2, engines=judge_only)
    changed = build(judged, tmp_path / "run", yes=True, executor=executor)
    asyncio.run(executor.close())
    same_as(changed, build(judged, tmp_path / "alone", executor="local"))


def test_a_killed_worker_costs_no_row(tmp_path: Path, cluster: None) -> None:
    build(small_recipe(), tmp_path / "local", executor="local")
    executor, killed = RayExecutor(replicas=2, engines=slow_engine), list[int]()

    def kill_one() -> None:
        while not killed:
            time.sleep(0.05)
            for replica in list(executor._replicas.values()):
                if "pid" in replica.node and any((tmp_path / "ray" / "steps").rglob("*.parquet")):
                    killed.append(int(replica.node.rsplit("pid ", 1)[1].rstrip(")")))
                    os.kill(killed[0], signal.SIGKILL)
                    return

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    run = build(small_recipe(), tmp_path / "ray", executor=executor)
    asyncio.run(executor.close())
    killer.join(5)
    assert killed
    assert verify(run) == []
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")
    assert "lost" in (tmp_path / "ray" / "log.jsonl").read_text()


def test_the_request_that_kills_its_engine_is_found_and_rejected(tmp_path: Path, cluster: None) -> None:
    executor = RayExecutor(replicas=2, engines=deadly_engine)
    recipe = small_recipe(rows=32, extend=None)
    run = build(recipe, tmp_path / "ray", executor=executor)
    asyncio.run(executor.close())
    assert verify(run) == []
    rejected = [row for row in run.table().to_pylist() if "engine" in (row["rejected"] or "")]
    assert len(rejected) == 1
    whole = build(recipe, tmp_path / "local", executor="local").table().to_pylist()
    others = {
        row["id"]: row["instruction"] for row in run.table().to_pylist() if row["id"] != rejected[0]["id"]
    }
    assert others == {row["id"]: row["instruction"] for row in whole if row["id"] in others}


def test_an_engine_that_never_starts_ends_the_build(
    tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magpie.execution.ray._ATTEMPTS", 2)
    executor = RayExecutor(replicas=1, engines=no_engine)
    with pytest.raises(EngineError, match="2 times in a row: no engine today"):
        build(small_recipe(), tmp_path / "ray", executor=executor)
    asyncio.run(executor.close())


# Engines that workers are lent


class Slow:
    """The engine, a little later."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def model(self) -> ModelInfo:
        return self._engine.model

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        await asyncio.sleep(0.05)
        return await self._engine.complete(prompt, sampling)

    async def close(self) -> None:
        await self._engine.close()


class Deadly(Slow):
    """Its process dies of one request in some thirty."""

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        if sampling.temperature > 0 and sampling.seed % 29 == 7:
            os._exit(9)
        return await self._engine.complete(prompt, sampling)


class JudgeOnly(Slow):
    """Its process dies when it is asked for anything but a judge's answer."""

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        if sampling.max_tokens != JUDGED:
            os._exit(9)
        return await self._engine.complete(prompt, sampling)


async def judge_only(model: Model) -> Engine:
    return JudgeOnly(await open_engine(model))


async def slow_engine(model: Model) -> Engine:
    return Slow(await open_engine(model))


async def deadly_engine(model: Model) -> Engine:
    return Deadly(await open_engine(model))


async def no_engine(model: Model) -> Engine:
    raise EngineError("no engine today")
