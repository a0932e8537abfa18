"""What Ray's workers die of, or hang in: each is found out, and no row is lost. A real Ray on this machine, no GPU."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from builds import small_recipe, tree

from magpie.build import build
from magpie.engines import open_engine
from magpie.engines.base import Completion, Engine, ModelInfo, Sampling
from magpie.errors import EngineError
from magpie.execution.ray import RayExecutor
from magpie.execution.ray.cluster import Resources
from magpie.execution.ray.replica import Replica
from magpie.plan import make_plan
from magpie.recipe import Model
from magpie.runs.verify import verify

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of this process."""
    from magpie.execution.ray.cluster import connect, disconnect

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    connect(None, cpus=3)
    yield
    disconnect()


def when_it_is_at_work(executor: RayExecutor, folder: Path, do: Callable[[int], None]) -> threading.Thread:
    """Do something to one worker's process once a shard is committed; to another, where that one is gone by then."""

    def wait() -> None:
        while True:
            time.sleep(0.05)
            for replica in list(executor._replicas.values()):
                if "pid" in replica.node and any((folder / "steps").rglob("*.parquet")):
                    with suppress(ProcessLookupError):
                        do(int(replica.node.rsplit("pid ", 1)[1].rstrip(")")))
                        return

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_worker_that_stands_still_is_found_out(
    tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended, its shard is handed out, and what it would still have written changes nothing."""
    # Long enough for a worker of a busy machine, whose first imports let no other thread run.
    monkeypatch.setattr("magpie.execution.ray.replica.HEARTBEAT_EVERY", 1.0)
    monkeypatch.setattr("magpie.execution.ray.replica.SILENCE", 10.0)
    build(small_recipe(), tmp_path / "local", executor="local")
    # One alone: of two, the one that is stopped may have no shard, and nobody misses it.
    executor, stopped = RayExecutor(replicas=1, engines=slow_engine), list[int]()

    def stop(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)

    thread = when_it_is_at_work(executor, tmp_path / "ray", stop)
    run = build(small_recipe(), tmp_path / "ray", executor=executor)
    thread.join(5)
    assert "does not answer" in (tmp_path / "ray" / "log.jsonl").read_text()
    if psutil.pid_exists(stopped[0]):
        os.kill(stopped[0], signal.SIGCONT)
        psutil.wait_procs([psutil.Process(stopped[0])], timeout=10)
    asyncio.run(executor.close())
    assert not psutil.pid_exists(stopped[0])
    assert verify(run) == []
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


def test_a_terminal_that_closes_ends_nothing_of_ray(cluster: None) -> None:
    """SIGHUP comes to all processes in it, and the shards in flight are still to be finished."""
    children = [child for child in psutil.Process().children(recursive=True) if "ray" in child.name()]
    fields = [Path(f"/proc/{child.pid}/status").read_text().split("SigBlk:")[1].split() for child in children]
    blocked = [int(words[0], 16) >> (signal.SIGHUP - 1) & 1 for words in fields]
    assert "raylet" in [child.name() for child in children]
    assert all(blocked)


def test_an_engine_short_of_memory_gets_half_the_slots(
    tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magpie.execution.ray._LONGEST_WAIT", 0.1)
    executor = RayExecutor(replicas=1, engines=hungry_engine)
    models = {"generator": {"model": "scripted", "slots": 64}, "embedder": {"model": "scripted"}}
    run = build(small_recipe(rows=32, models=models), tmp_path / "ray", executor=executor)
    asyncio.run(executor.close())
    assert verify(run) == []
    assert (tmp_path / "ray" / "log.jsonl").read_text().count("the next has 32 slots") == 1


def test_half_the_slots_and_half_again() -> None:
    phase = make_plan(small_recipe()).phases[0]
    replica = Replica(0, Resources(1))
    error = EngineError("CUDA out of memory")
    assert [replica.halve_slots(phase, error) for _ in range(10)] == [256, 128, 64, 32, 16, 8, 4, 2, 1, 1]


def test_a_worker_may_use_its_part_of_the_machine(tmp_path: Path, cluster: None) -> None:
    executor = RayExecutor(replicas=2, engines=engine_that_says_its_threads)
    run = build(small_recipe(rows=32), tmp_path / "ray", executor=executor)
    asyncio.run(executor.close())
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert f'"revision": "threads {share}"' in (run.folder / "log.jsonl").read_text()


# Engines that workers are lent


class Slow:
    """The engine, a little later."""

    def __init__(self, engine: Engine, revision: str | None = None) -> None:
        self._engine, self._revision = engine, revision

    @property
    def model(self) -> ModelInfo:
        from dataclasses import replace

        info = self._engine.model
        return info if self._revision is None else replace(info, revision=self._revision)

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        await asyncio.sleep(0.05)
        return await self._engine.complete(prompt, sampling)

    async def close(self) -> None:
        await self._engine.close()


async def slow_engine(model: Model) -> Engine:
    return Slow(await open_engine(model))


async def hungry_engine(model: Model) -> Engine:
    if model.slots is None or model.slots > 32:
        raise EngineError("CUDA out of memory. Tried to allocate 20.00 GiB")
    return await open_engine(model)


async def engine_that_says_its_threads(model: Model) -> Engine:
    return Slow(await open_engine(model), f"threads {os.environ['OMP_NUM_THREADS']}")
