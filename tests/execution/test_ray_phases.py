"""Workers from one phase to the next, and at the end of one. Ray is played here: its actors are in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from builds import scripted, small_recipe
from execution.played_ray import Held, Here, Work, held_by, until

from magpie.engines import open_engine
from magpie.engines.base import Engine
from magpie.errors import EngineError
from magpie.execution.base import ShardTask
from magpie.execution.ray import RayExecutor, _loads_weights, _to_start, cluster
from magpie.execution.ray.cluster import Resources
from magpie.execution.ray.worker import Answer, RayWorker
from magpie.plan import Phase, make_plan
from magpie.recipe import Model


@pytest.mark.parametrize("slower", [0, 1])
def test_what_is_loaded_stays_for_the_next_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slower: int
) -> None:
    """Whichever worker is the last to end."""
    here, work, opened = Here(monkeypatch), Work(tmp_path), list[Model]()

    async def slowly(worker: RayWorker, tasks: Sequence[ShardTask], *, last: bool) -> Answer:
        if last and worker is here.actors[slower].worker:
            await asyncio.sleep(0.3)
        return await RayWorker.exchange(worker, tasks, last=last)

    async def two_phases() -> None:
        go_on, asked = asyncio.Event(), list[Held]()
        held = held_by(go_on, asked, opened)
        executor = RayExecutor("auto", replicas=2, engines=held)
        for shards in ([0, 1, 2], [3, 4, 5]):
            go_on.clear()
            asked.clear()
            phase = asyncio.create_task(work.take(executor, shards))
            await until(lambda: len(asked) == 2)
            go_on.set()
            await phase
            assert here.killed == []
        await executor.close()

    here.exchange = slowly
    asyncio.run(two_phases())
    assert work.made() == 6
    assert len(opened) == len(here.actors) == len(here.killed) == 2


# How many there are


@pytest.mark.parametrize(
    ("wanted", "unfinished", "begun", "idle", "starts"),
    [
        (4, 9, [], [], [0, 1, 2, 3]),
        (4, 2, [], [], [0, 1]),
        (4, 2, [0, 1], [], []),  # however often it is looked
        (4, 1, [0, 1], [], []),
        (4, 9, [0, 1], [], [2, 3]),  # a node has joined
        (2, 9, [0, 1, 2, 3], [], []),  # nodes have gone
        (4, 2, [], [0, 2, 3], [0, 2]),  # what stands comes before what would have to be started
        (2, 9, [], [2, 3], [2, 3]),  # also where fewer are wanted now: a new one would wait for their room
        (4, 9, [], [3], [3, 0, 1, 2]),
    ],
)
def test_there_are_never_more_workers_than_shards(
    wanted: int, unfinished: int, begun: list[int], idle: list[int], starts: list[int]
) -> None:
    assert _to_start(wanted, unfinished, set(begun), set(idle)) == starts


def test_no_worker_is_started_for_which_there_is_no_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the shards take: it is looked for new nodes again and again."""
    monkeypatch.setattr("magpie.execution.ray._LOOK_FOR_NODES", 0.01)
    here, work = Here(monkeypatch, room=6), Work(tmp_path, at_once=1)

    async def one_phase() -> None:
        go_on, asked = asyncio.Event(), list[Held]()
        held = held_by(go_on, asked)
        executor = RayExecutor("auto", engines=held)
        phase = asyncio.create_task(work.take(executor, [0, 1]))
        await until(lambda: len(asked) == 2)
        looks = here.looks
        await until(lambda: here.looks > looks + 20)
        go_on.set()
        await phase
        assert here.killed == []
        await executor.close()

    asyncio.run(one_phase())
    assert work.made() == len(here.actors) == 2


@pytest.mark.parametrize("shards", [[3], [3, 4, 5]])
def test_where_nodes_go_between_phases_those_that_are_left_take_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: list[int]
) -> None:
    """And no new worker waits for the room which they hold."""
    here, work, opened = Here(monkeypatch, room=3), Work(tmp_path, at_once=1), list[Model]()

    async def two_phases() -> None:
        go_on, asked = asyncio.Event(), list[Held]()
        held = held_by(go_on, asked, opened)
        executor = RayExecutor("auto", engines=held)
        phase = asyncio.create_task(work.take(executor, [0, 1, 2]))
        await until(lambda: len(asked) == 3)
        go_on.set()
        await phase
        here.lose(0)
        await asyncio.wait_for(work.take(executor, shards), 60)
        await executor.close()

    asyncio.run(two_phases())
    assert work.made() == 3 + len(shards)
    assert len(opened) == len(here.actors) == 3


def test_an_idle_worker_takes_the_place_of_one_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, work = Here(monkeypatch, room=2), Work(tmp_path, at_once=1)

    async def two_phases() -> None:
        go_on, asked = asyncio.Event(), list[Held]()
        held = held_by(go_on, asked)
        executor = RayExecutor("auto", engines=held)
        phase = asyncio.create_task(work.take(executor, [0, 1]))
        await until(lambda: len(asked) == 2)
        go_on.set()
        await phase
        go_on.clear()
        asked.clear()
        phase = asyncio.create_task(work.take(executor, [2]))
        await until(lambda: len(asked) == 1)
        here.lose(0)
        await until(lambda: len(asked) == 2)
        go_on.set()
        await phase
        await executor.close()

    asyncio.run(two_phases())
    assert work.made() == 3 and len(here.actors) == 2
    (note,) = work.notes()
    assert "waiting for another: 1 shard; " in note and note.endswith(" takes its place")


# At the end of a phase


def test_a_worker_that_still_loads_when_all_is_done_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, work, opened = Here(monkeypatch), Work(tmp_path), list[Model]()

    async def second_never(model: Model) -> Engine:
        opened.append(model)
        if len(opened) == 2:
            await asyncio.Event().wait()
        await until(lambda: len(opened) == 2)
        return await open_engine(model)

    async def one_phase() -> None:
        executor = RayExecutor("auto", replicas=2, engines=second_never)
        await work.take(executor, range(6))
        assert len(here.killed) == 1
        await executor.close()

    asyncio.run(one_phase())
    assert work.made() == 6
    assert work.notes() == []


@pytest.mark.parametrize("attempts", [1, 6])
def test_a_death_when_all_is_done_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    """Not even the last that is allowed: no worker is started for nothing, and none is announced."""
    monkeypatch.setattr("magpie.execution.ray._ATTEMPTS", attempts)
    here, work = Here(monkeypatch), Work(tmp_path)

    async def dies_at_last(worker: RayWorker, tasks: Sequence[ShardTask], *, last: bool) -> Answer:
        if last:
            raise RuntimeError("the process is gone")
        return await RayWorker.exchange(worker, tasks, last=last)

    async def one_phase() -> None:
        executor = RayExecutor("auto", replicas=1, engines=open_engine)
        await work.take(executor, range(6))
        await executor.close()

    here.exchange = dies_at_last
    asyncio.run(one_phase())
    assert work.made() == 6
    assert len(here.actors) == 1
    assert work.notes() == []


def test_a_worker_that_dies_while_the_build_stops_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had is dropped, and what another has is finished."""
    here, work = Here(monkeypatch), Work(tmp_path)

    async def stopped() -> None:
        go_on, asked = asyncio.Event(), list[Held]()
        held = held_by(go_on, asked)
        executor = RayExecutor("auto", replicas=2, engines=held)
        phase = asyncio.create_task(work.take(executor, range(6)))
        await until(lambda: len(asked) == 2)
        assert executor.drain()
        here.actors[0].is_dead = True
        await until(lambda: here.actors[0] in here.killed)
        go_on.set()
        await phase
        await executor.close()

    asyncio.run(stopped())
    assert 0 < work.made() < 6
    assert len(here.actors) == 2
    assert work.notes() == []


def test_a_wait_for_room_is_said_once_for_each_size_of_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that waited in vain in one phase does not silence the next, whose workers fit nowhere."""
    monkeypatch.setattr("magpie.execution.ray._WAITS_QUIETLY", 0)
    sizes = [Resources(0), Resources(8), Resources(0)]
    Here(monkeypatch, room=1)
    work = Work(tmp_path)
    monkeypatch.setattr(cluster, "resources_for", lambda *_, **__: sizes.pop(0))

    async def phases() -> None:
        executor = RayExecutor("auto", replicas=2, engines=open_engine)
        await work.take(executor, [0, 1])
        assert len(work.notes()) == 1
        waiting = asyncio.create_task(work.take(executor, [2, 3]))
        await until(lambda: len(work.notes()) == 2)
        waiting.cancel()
        await asyncio.wait({waiting})
        await work.take(executor, [2, 3])
        await executor.close()

    asyncio.run(phases())
    first, second = work.notes()
    assert "2 of 2 workers wait for room on the Ray cluster: each takes 1 CPU core of one node" in first
    assert (
        "each takes 8 GPUs and 1 CPU core of one node, and it has 1 node with 0 GPUs and 1 CPU core" in second
    )


def test_a_machine_too_small_for_one_worker_ends_the_build_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Here(monkeypatch, room=4, owned=True)
    monkeypatch.setattr(cluster, "resources_for", lambda *_, **__: Resources(2))
    with pytest.raises(EngineError) as raised:
        asyncio.run(Work(tmp_path).take(RayExecutor(), [0]))
    assert str(raised.value) == (
        "a worker takes 2 GPUs and 1 CPU core, and this machine has 0 GPUs and 4 CPU cores; "
        "give a smaller `tensor_parallel`"
    )


@pytest.mark.parametrize(
    ("engine", "by_the_engine", "by_a_step"),
    [("vllm", True, True), ("server", False, True), ("scripted", False, False)],
)
def test_weights_are_loaded_by_an_engine_or_by_a_step(
    engine: str, by_the_engine: bool, by_a_step: bool
) -> None:
    """An embedder's are loaded in the worker, whichever engine asks it to: a server has none of it."""
    settings = {"server": {"url": "http://127.0.0.1:1/v1"}} if engine == "server" else {}
    named = Model.model_validate({"model": "scripted", "engine": engine, **settings})
    instruct, embed = [
        Phase(phase.steps, named) for phase in make_plan(small_recipe(models=scripted(slots=16))).phases[:2]
    ]
    assert instruct.needs_engine and not embed.needs_engine
    assert _loads_weights(instruct) == by_the_engine
    assert _loads_weights(embed) == by_a_step
