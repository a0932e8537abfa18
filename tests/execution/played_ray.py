"""Ray, played: its actors are in this process, and a test says how much room there is and who dies."""

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
from magpie.execution.base import Event, Noted, ShardTask
from magpie.execution.ray import RayExecutor, cluster
from magpie.execution.ray.cluster import Resources
from magpie.execution.ray.worker import Answer, RayWorker
from magpie.plan import BoundPlan, BuildTools, bind, make_plan
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


def held_by(
    go_on: asyncio.Event, asked: list[Held], opened: list[Model] | None = None
) -> Callable[[Model], Coroutine[Any, Any, Engine]]:
    """What opens such engines. `opened` is given the models."""

    async def held(model: Model) -> Engine:
        if opened is not None:
            opened.append(model)
        return Held(await open_engine(model), go_on, asked)

    return held


async def until(happened: Callable[[], bool]) -> None:
    """Wait for something to happen, a minute at most."""
    async with asyncio.timeout(60):
        while not happened():
            await asyncio.sleep(0.01)
