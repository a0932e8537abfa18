"""Workers from one phase to the next, and at the end of one. Ray is played here: its actors are in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from builds import scripted, small_recipe

from magpie import machine
from magpie.engines import open_engine
from magpie.engines.base import Completion, Engine, Sampling
from magpie.errors import EngineError
from magpie.execution.base import Event, Noted, ShardTask
from magpie.execution.ray import RayExecutor, _loads_weights, _to_start, cluster
from magpie.execution.ray.cluster import Resources
from magpie.execution.ray.worker import Answer, RayWorker
from magpie.plan import BoundPlan, BuildTools, Phase, bind, make_plan
from magpie.recipe import Model
from magpie.runs.manifest import START
from magpie.runs.run import Run
from magpie.storage import LocalStorage


class Call:
    """A method of an actor, which Ray has called by `remote`."""

    def __init__(self, method: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        self.remote = method

    def options(self, **_: str) -> Call:
        return self


class Actor:
    """A worker in this process, which can be killed."""

    def __init__(self, worker: RayWorker, exchange: Callable[..., Any]) -> None:
        self.worker, self.is_dead = worker, False
        self._exchange = exchange
        self.node, self.heartbeat = Call(worker.node), Call(worker.heartbeat)
        self.begin, self.exchange, self.close = Call(worker.begin), Call(self._answer), Call(worker.close)

    async def _answer(self, tasks: Sequence[ShardTask], *, last: bool) -> Answer:
        answer: Answer = await self._exchange(self.worker, tasks, last=last)
        if self.is_dead:
            raise RuntimeError("the process is gone")
        return answer


class Room:
    """A placement group: ready at once, or never."""

    def __init__(self, is_given: bool, node: str) -> None:
        self.is_given, self.node = is_given, node

    async def ready(self) -> None:
        if not self.is_given:
            await asyncio.Event().wait()


class Here:
    """A cluster with room for so many workers, none of which takes a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int = 2, *, owned: bool = False) -> None:
        self.actors, self.killed = list[Actor](), list[Actor]()
        self.room, self.places = room, room
        self.looks = 0  # at how many nodes there are
        self.rooms, self.gone = 0, set[str]()
        self.exchange: Callable[..., Any] = RayWorker.exchange
        monkeypatch.setattr(cluster, "connect", lambda *_, **__: owned)
        monkeypatch.setattr(cluster, "disconnect", lambda: None)
        monkeypatch.setattr(cluster, "_living", self._living)
        monkeypatch.setattr(cluster, "node_of", lambda room: room.node)
        monkeypatch.setattr(cluster, "has_node", lambda node: node not in self.gone)
        monkeypatch.setattr(cluster, "reserve", self._reserve)
        monkeypatch.setattr(cluster, "start", self._start)
        monkeypatch.setattr(cluster, "release", self._release)
        # Workers set both for the whole of their process, which is this one.
        monkeypatch.setattr(machine, "_sharing", 1)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def _living(self) -> list[dict[str, float]]:
        self.looks += 1
        return [{"CPU": float(self.places)}]

    def lose(self, number: int) -> None:
        """The node of an actor goes, and the room on it."""
        self.actors[number].is_dead = True
        self.gone.add(f"node {number}")
        self.room -= 1
        self.places -= 1

    def _reserve(self, resources: Resources) -> Room:
        room = Room(self.room > 0 and not resources.gpus, f"node {self.rooms}")
        self.rooms += 1
        self.room -= room.is_given
        return room

    def _start(self, worker: type[RayWorker], group: Room, resources: Resources, **arguments: Any) -> Actor:
        self.actors.append(Actor(worker(**arguments), self.exchange))
        return self.actors[-1]

    def _release(self, actor: Actor | None, group: Room | None) -> None:
        self.room += group is not None and group.is_given
        if actor is not None:
            actor.is_dead = True
            self.killed.append(actor)
            if actor.worker._working is not None:
                actor.worker._working.cancel()


class Work:
    """Six shards of 16 rows, taken through the first phase, and what is heard of it."""

    def __init__(self, folder: Path, *, at_once: int = 2) -> None:
        # Slots for so many shards at once, so that no worker takes all of them.
        plan = make_plan(small_recipe(models=scripted(slots=8 * at_once)))
        storage = LocalStorage(folder / "run")
        storage.prepare()
        self.run, self.phase = Run(storage, plan.recipe, plan.steps), plan.phases[0]
        self.bound: BoundPlan = bind(plan, BuildTools())
        self.heard: list[Event] = []

    async def take(self, executor: RayExecutor, shards: Sequence[int]) -> None:
        tasks = [ShardTask(shard, START, {}) for shard in shards]
        await executor.run(self.run, self.bound, self.phase, tasks, self.heard.append)

    def made(self) -> int:
        """Shards that are through."""
        last = self.phase.steps[-1]
        return sum(self.run.has_shard(last, shard) for shard in range(self.run.shards))

    def notes(self) -> list[str]:
        return [event.text for event in self.heard if isinstance(event, Noted)]


class Held:
    """The engine; it completes nothing before it is told to go on."""

    def __init__(self, engine: Engine, go_on: asyncio.Event, asked: list[Held]) -> None:
        self.model, self.close = engine.model, engine.close
        self._engine, self._go_on, self._asked = engine, go_on, asked

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        if self not in self._asked:
            self._asked.append(self)
        await self._go_on.wait()
        return await self._engine.complete(prompt, sampling)


async def until(happened: Callable[[], bool]) -> None:
    """Wait for something to happen, a minute at most."""
    async with asyncio.timeout(60):
        while not happened():
            await asyncio.sleep(0.01)


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

        async def held(model: Model) -> Engine:
            opened.append(model)
            return Held(await open_engine(model), go_on, asked)

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

        async def held(model: Model) -> Engine:
            return Held(await open_engine(model), go_on, asked)

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

        async def held(model: Model) -> Engine:
            opened.append(model)
            return Held(await open_engine(model), go_on, asked)

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

        async def held(model: Model) -> Engine:
            return Held(await open_engine(model), go_on, asked)

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

        async def held(model: Model) -> Engine:
            return Held(await open_engine(model), go_on, asked)

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
