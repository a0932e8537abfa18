"""Who has which shard, and what becomes of those whose worker has died. Without Ray: workers are numbers here."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from builds import small_recipe

from magpie.build import build
from magpie.errors import RunError, StorageError
from magpie.execution.base import Answered, Asked, Committed, Event, Isolation, Noted, ShardDone, ShardTask
from magpie.execution.isolation import request_key
from magpie.execution.ray.dispatcher import SUSPECT_AFTER, Dispatcher
from magpie.execution.scheduler import ShardDemand
from magpie.plan import BuildTools, bind, make_plan
from magpie.runs.manifest import START, Manifest
from magpie.runs.run import Run
from magpie.storage import LocalStorage


def dispatcher_of(
    tmp_path: Path, storage: LocalStorage | None = None, *, committed: int = 0
) -> tuple[Dispatcher, list[Event]]:
    """The shards of the first phase, and what the driver hears. It knows the first `committed` steps of each shard."""
    plan = make_plan(small_recipe())
    storage = storage or LocalStorage(tmp_path / "run")
    storage.prepare()
    run, heard = Run(storage, plan.recipe, plan.steps), list[Event]()
    steps = plan.phases[0].steps[:committed]
    manifest = Manifest.scan(run)[0] if steps else Manifest(run)
    known = [
        {step.number: found for step in steps if (found := manifest.get(step, shard)) is not None}
        for shard in range(run.shards)
    ]
    tasks = [ShardTask(shard, START, there) for shard, there in enumerate(known)]
    return Dispatcher(run, bind(plan, BuildTools()), plan.phases[0], tasks, heard.append), heard


def test_shards_of_a_lost_worker_wait_again_in_front(tmp_path: Path) -> None:
    dispatcher, _ = dispatcher_of(tmp_path)
    assert [task.shard for task in dispatcher.assign(0, ShardDemand(2))] == [0, 1]
    assert [task.shard for task in dispatcher.assign(1, ShardDemand(1))] == [2]
    dispatcher.handle(0, ShardDone(0))
    assert asyncio.run(dispatcher.lost(0)) == 1
    assert [task.shard for task in dispatcher.assign(1, ShardDemand(9))] == [1, 3, 4, 5]
    assert dispatcher.unfinished == 5


def test_a_shard_that_loses_three_workers_gets_one_for_itself(tmp_path: Path) -> None:
    dispatcher, heard = dispatcher_of(tmp_path)
    for worker in range(SUSPECT_AFTER):
        dispatcher.assign(worker, ShardDemand(1))
        asyncio.run(dispatcher.lost(worker))
    others = dispatcher.assign(7, ShardDemand(9))
    assert [task.shard for task in others] == [1, 2, 3, 4, 5]
    assert dispatcher.assign(7, ShardDemand(1)) == []  # not beside others
    (alone,) = dispatcher.assign(8, ShardDemand(5))
    assert alone.shard == 0
    assert alone.isolation == Isolation(32)
    for request in ("a", "b", "c"):
        dispatcher.handle(8, Asked(0, request))
    dispatcher.handle(8, Answered(0, "b"))
    asyncio.run(dispatcher.lost(8))
    (alone,) = dispatcher.assign(9, ShardDemand(5))
    assert alone.isolation == Isolation(1, frozenset({"a", "c"}))
    dispatcher.handle(9, Asked(0, "a"))
    dispatcher.handle(9, Answered(0, "a"))
    dispatcher.handle(9, Asked(0, "c"))
    asyncio.run(dispatcher.lost(9))
    (alone,) = dispatcher.assign(10, ShardDemand(5))
    assert alone.isolation == Isolation(32, None, frozenset({"c"}))
    assert any(isinstance(event, Noted) and "killed its engine" in event.text for event in heard)


def test_a_node_that_goes_is_blamed_on_no_shard_and_no_request(tmp_path: Path) -> None:
    """However often: machines that are taken away at any time are what some builds run on."""
    dispatcher, heard = dispatcher_of(tmp_path)
    for worker in range(40):
        (task,) = dispatcher.assign(worker, ShardDemand(1))
        assert (task.shard, task.isolation) == (0, None)
        assert asyncio.run(dispatcher.lost(worker, with_its_node=True)) == 1
    for worker in range(SUSPECT_AFTER):
        dispatcher.assign(worker, ShardDemand(1))
        asyncio.run(dispatcher.lost(worker))
    for worker in range(40):
        (alone,) = dispatcher.assign(worker, ShardDemand())
        assert (alone.shard, alone.isolation) == (0, Isolation(32))
        dispatcher.handle(worker, Asked(0, "a"))
        asyncio.run(dispatcher.lost(worker, with_its_node=True))
    assert heard == []


def test_a_shard_that_loses_too_many_workers_ends_the_build(tmp_path: Path) -> None:
    """And not only one worker, while the others wait for shards that nobody has any more."""
    dispatcher, _ = dispatcher_of(tmp_path)
    with pytest.raises(RunError, match="shard 0 has lost 24 workers"):
        for worker in range(99):
            dispatcher.assign(worker, ShardDemand(0 if worker >= SUSPECT_AFTER else 1))
            asyncio.run(dispatcher.lost(worker))


def test_a_report_that_comes_twice_counts_once(tmp_path: Path) -> None:
    dispatcher, heard = dispatcher_of(tmp_path)
    committed = Committed("instruct", 1, 0, 16, 0, None)  # type: ignore[arg-type]
    dispatcher.assign(0, ShardDemand(1))
    dispatcher.handle(0, committed)
    dispatcher.handle(0, committed)
    assert heard == [committed]


def test_a_request_has_the_same_name_in_every_process() -> None:
    assert request_key([1, 2], 3) == request_key((1, 2), 3) != request_key([1, 2], 4)
    assert request_key([12], 3) != request_key([1, 2], 3)


def test_a_dispatcher_that_drains_is_over_when_what_is_assigned_is_done_or_lost(tmp_path: Path) -> None:
    dispatcher, _ = dispatcher_of(tmp_path)
    dispatcher.assign(0, ShardDemand(2))
    dispatcher.assign(1, ShardDemand(1))
    assert dispatcher.drain()
    assert dispatcher.assign(1, ShardDemand(5)) == [] and dispatcher.unfinished == 3
    dispatcher.handle(0, ShardDone(0))
    dispatcher.handle(1, ShardDone(2))
    assert not dispatcher.is_over
    asyncio.run(dispatcher.lost(0))
    assert dispatcher.is_over


# What a dead worker has left is asked of the storage


@pytest.mark.parametrize("known", [0, 1])
def test_what_a_dead_worker_has_committed_is_reported_in_order_and_once(tmp_path: Path, known: int) -> None:
    """Its last reports may be lost with it. What the driver knew before the phase is not counted again."""
    build(small_recipe(), tmp_path / "run")
    steps = [step.name for step in make_plan(small_recipe()).phases[0].steps]
    dispatcher, heard = dispatcher_of(tmp_path, committed=known)
    dispatcher.assign(0, ShardDemand(2))
    asyncio.run(dispatcher.lost(0))
    told = [
        (event.shard, event.step if isinstance(event, Committed) else "done")
        for event in heard
        if isinstance(event, Committed | ShardDone)
    ]
    assert told == [(shard, what) for shard in (1, 0) for what in [*steps[known:], "done"]]
    assert dispatcher.unfinished == 4


class Slow(LocalStorage):
    """Answers when it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked, self.go_on = threading.Event(), threading.Event()

    def exists(self, name: str) -> bool:
        if threading.current_thread() is not threading.main_thread():
            self.asked.set()
        assert self.go_on.wait(20), "the storage is asked on the event loop, where nothing else could happen"
        return super().exists(name)


@pytest.mark.parametrize("drains", [False, True])
def test_other_workers_go_on_while_the_storage_is_asked(tmp_path: Path, drains: bool) -> None:
    storage = Slow(tmp_path / "run")
    dispatcher, _ = dispatcher_of(tmp_path, storage)

    async def losing() -> None:
        dispatcher.assign(0, ShardDemand(2))
        dispatcher.assign(1, ShardDemand(1))
        lost = asyncio.create_task(dispatcher.lost(0))
        while not storage.asked.is_set():
            await asyncio.sleep(0.001)
        assert [task.shard for task in dispatcher.assign(1, ShardDemand(1))] == [3]
        dispatcher.handle(1, ShardDone(2))
        if drains:
            assert dispatcher.drain()
        storage.go_on.set()
        assert await lost == 2

    asyncio.run(losing())
    if drains:
        assert dispatcher.unfinished == 1  # what worker 1 has
    else:
        assert [task.shard for task in dispatcher.assign(1, ShardDemand(9))] == [0, 1, 4, 5]


class Broken(LocalStorage):
    def exists(self, name: str) -> bool:
        raise StorageError("the bucket is gone; run the same command again")


def test_a_storage_that_fails_then_ends_the_build(tmp_path: Path) -> None:
    dispatcher, _ = dispatcher_of(tmp_path, Broken(tmp_path / "run"))
    dispatcher.assign(0, ShardDemand(2))
    with pytest.raises(StorageError, match="the bucket is gone"):
        asyncio.run(dispatcher.lost(0))
