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
from magpie.errors import EngineError, RunError
from magpie.execution.base import Answered, Asked, Committed, Event, Isolation, Noted, ShardTask, Through
from magpie.execution.isolation import request_key
from magpie.execution.ray import RayExecutor
from magpie.execution.ray.handout import SUSPECT_AFTER, Handout
from magpie.execution.scheduler import Wanted
from magpie.plan import BuildTools, bind, make_plan
from magpie.recipe import Model
from magpie.runs.run import Run
from magpie.runs.verify import verify
from magpie.storage import LocalStorage

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
            for place in list(executor._places.values()):
                if "pid" in place.node and any((tmp_path / "ray" / "steps").rglob("*.parquet")):
                    killed.append(int(place.node.rsplit("pid ", 1)[1].rstrip(")")))
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


# The book-keeping, without Ray


def handout_of(tmp_path: Path) -> tuple[Handout, list[Event]]:
    """Six shards of the first phase, and what the driver hears."""
    plan = make_plan(small_recipe())
    storage = LocalStorage(tmp_path / "run")
    storage.prepare()
    run, heard = Run(storage, plan.recipe, plan.steps), list[Event]()
    tasks = [ShardTask(shard, "", {}) for shard in range(run.shards)]
    return Handout(run, bind(plan, BuildTools()), plan.phases[0], tasks, heard.append), heard


def test_shards_of_a_lost_worker_wait_again_in_front(tmp_path: Path) -> None:
    handout, _ = handout_of(tmp_path)
    assert [task.shard for task in handout.take(0, Wanted(2))] == [0, 1]
    assert [task.shard for task in handout.take(1, Wanted(1))] == [2]
    handout.handle(0, Through(0))
    assert handout.lost(0) == 1
    assert [task.shard for task in handout.take(1, Wanted(9))] == [1, 3, 4, 5]
    assert handout.left == 5


def test_a_shard_that_loses_three_workers_gets_one_for_itself(tmp_path: Path) -> None:
    handout, heard = handout_of(tmp_path)
    for worker in range(SUSPECT_AFTER):
        handout.take(worker, Wanted(1))
        handout.lost(worker)
    others = handout.take(7, Wanted(9))
    assert [task.shard for task in others] == [1, 2, 3, 4, 5]
    assert handout.take(7, Wanted(1)) == []  # not beside others
    (alone,) = handout.take(8, Wanted(5))
    assert alone.shard == 0
    assert alone.isolation == Isolation(32)
    for request in ("a", "b", "c"):
        handout.handle(8, Asked(0, request))
    handout.handle(8, Answered(0, "b"))
    handout.lost(8)
    (alone,) = handout.take(9, Wanted(5))
    assert alone.isolation == Isolation(1, frozenset({"a", "c"}))
    handout.handle(9, Asked(0, "a"))
    handout.handle(9, Answered(0, "a"))
    handout.handle(9, Asked(0, "c"))
    handout.lost(9)
    (alone,) = handout.take(10, Wanted(5))
    assert alone.isolation == Isolation(32, None, frozenset({"c"}))
    assert any(isinstance(event, Noted) and "killed its engine" in event.text for event in heard)


def test_a_shard_that_loses_too_many_workers_ends_the_build(tmp_path: Path) -> None:
    """And not only one worker's place, while the others wait for shards that nobody has any more."""
    handout, _ = handout_of(tmp_path)
    with pytest.raises(RunError, match="shard 0 has lost 24 workers"):
        for worker in range(99):
            handout.take(worker, Wanted(0 if worker >= SUSPECT_AFTER else 1))
            handout.lost(worker)


def test_a_report_that_comes_twice_counts_once(tmp_path: Path) -> None:
    handout, heard = handout_of(tmp_path)
    committed = Committed("instruct", 1, 0, 16, 0, None)  # type: ignore[arg-type]
    handout.take(0, Wanted(1))
    handout.handle(0, committed)
    handout.handle(0, committed)
    assert heard == [committed]


def test_a_request_has_the_same_name_in_every_process() -> None:
    assert request_key([1, 2], 3) == request_key((1, 2), 3) != request_key([1, 2], 4)
    assert request_key([12], 3) != request_key([1, 2], 3)
