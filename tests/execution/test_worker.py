"""A worker: given a run's files, a bound plan, a phase, a task and an engine, it commits shards and reports events."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from builds import small_recipe, tree

from magpie.build import build
from magpie.engines import open_engine
from magpie.engines.base import Completion, ModelInfo, Sampling
from magpie.engines.scripted import ScriptedEngine
from magpie.errors import EngineError, RunError, StoppedError
from magpie.execution.base import (
    Began,
    Committed,
    Completed,
    Event,
    Found,
    Loaded,
    Loading,
    Report,
    ShardDone,
    ShardTask,
    Working,
    merge_completions,
)
from magpie.execution.driver import Driver
from magpie.execution.local import LocalExecutor
from magpie.execution.scheduler import EngineQueue
from magpie.execution.worker import Worker, first_rows
from magpie.plan import BoundPlan, BuildTools, Phase, bind, make_plan
from magpie.recipe import Recipe, Script
from magpie.runs.manifest import START, Manifest, lineage_after
from magpie.runs.record import ingredients_of, record
from magpie.runs.run import LOG, Run
from magpie.runs.verify import quarantined, verify
from magpie.storage import LocalStorage, MemoryStorage, Storage
from magpie.storage.sealed import Shard, Stamp, inspect_shard


def made(storage: Storage, recipe: Recipe | None = None) -> tuple[Run, BoundPlan]:
    """A run of nothing yet, and how it is to be built."""
    plan = make_plan(small_recipe() if recipe is None else recipe)
    storage.prepare()
    return Run(storage, plan.recipe, plan.steps), bind(plan, BuildTools())


def first_steps(bound: BoundPlan) -> Phase:
    """`instruct` and `clean`."""
    return bound.plan.phases[0].up_to("clean")


def taken(run: Run, bound: BoundPlan, phase: Phase, *tasks: ShardTask, **worker: Any) -> list[Event]:
    """What a worker on the scripted engine reports while it takes these shards."""
    events: list[Event] = []

    async def take() -> None:
        queue = EngineQueue(ScriptedEngine()) if phase.needs_engine else None
        one = Worker(run, bound, phase, queue, events.append, **worker)
        await asyncio.gather(*(one.take(task) for task in tasks))
        assert queue is None or (queue.in_flight, queue.expected) == (0, {})

    asyncio.run(take())
    return events


def test_a_shard_is_taken_through_a_phase_in_order() -> None:
    run, bound = made(MemoryStorage())
    phase = first_steps(bound)
    events = taken(run, bound, phase, ShardTask(2, START, {}))
    kinds = [Began, *[Completed] * 16, Committed, Began, Committed, ShardDone]
    assert [type(event) for event in events] == kinds
    begun = [event for event in events if isinstance(event, Began)]
    assert begun == [Began("instruct", 2), Began("clean", 2)]
    completed = [event for event in events if isinstance(event, Completed)]
    tokens = run.read(run.step("instruct"), 2, ["instruct_tokens"])["instruct_tokens"].to_pylist()
    assert sorted(event.tokens for event in completed) == sorted(tokens)
    assert {event.step for event in completed} == {"instruct"} and all(e.prompt_tokens > 0 for e in completed)
    instruct, clean = (event for event in events if isinstance(event, Committed))
    assert (instruct.step, instruct.number, instruct.shard, instruct.rows, instruct.rejected) == (
        ("instruct", 1, 2, 16, 0)
    )
    assert (clean.step, clean.number, clean.shard, clean.rows) == ("clean", 2, 2, 16)
    names = ["steps/01-instruct/00002.parquet", "steps/02-clean/00002.parquet"]
    assert run.storage.names() == names
    assert [inspect_shard(run.storage, name) for name in names] == [instruct.committed, clean.committed]
    assert instruct.committed.stamp == Stamp(
        "instruct", 2, first=32, rows=16, total=96, fingerprint=bound.fingerprints[0], made_from=START
    )
    assert clean.committed.stamp.made_from == lineage_after(START, instruct.committed)


class FailsOnce(ScriptedEngine):
    """Fails one request; the others would be at work for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        self.asked += 1
        if self.asked == 5:
            raise EngineError("it is lost; start it again")
        await asyncio.sleep(3600)
        raise AssertionError


def test_a_shard_that_fails_leaves_no_request_behind() -> None:
    run, bound = made(MemoryStorage())

    async def take() -> None:
        queue = EngineQueue(FailsOnce())
        with pytest.raises(EngineError, match="it is lost"):
            await Worker(run, bound, first_steps(bound), queue, lambda _: None).take(ShardTask(0, START, {}))
        assert queue.in_flight == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(take())


def test_shards_of_one_phase_may_come_in_any_order_and_are_the_same() -> None:
    one, other = MemoryStorage(), MemoryStorage()
    for storage, order in ((one, (0, 3, 5)), (other, (5, 0, 3))):
        run, bound = made(storage)
        taken(run, bound, first_steps(bound), *(ShardTask(shard, START, {}) for shard in order))
    assert len(one.names()) == 6
    assert {name: one.read(name) for name in one.names()} == {
        name: other.read(name) for name in other.names()
    }


def test_a_shard_made_from_the_same_rows_is_kept_and_one_made_from_others_replaced() -> None:
    run, bound = made(MemoryStorage())
    phase = first_steps(bound)
    first = [one for one in taken(run, bound, phase, ShardTask(0, START, {})) if isinstance(one, Committed)]
    there: dict[int, Shard] = {one.number: one.committed for one in first}
    assert taken(run, bound, phase, ShardTask(0, START, there)) == [ShardDone(0)]
    run.storage.delete(run.shard_name(run.steps[1], 0))
    again = taken(run, bound, phase, ShardTask(0, START, {1: there[1]}))
    assert [type(event) for event in again] == [Began, Committed, ShardDone]
    assert again[1] == first[1]
    stale = taken(run, bound, phase, ShardTask(0, "made from other rows", there))
    assert [event.step for event in stale if isinstance(event, Committed)] == ["instruct", "clean"]
    assert (
        inspect_shard(run.storage, run.shard_name(run.steps[0], 0)).stamp.made_from == "made from other rows"
    )
    with pytest.raises(RunError, match="is there already"):
        taken(run, bound, phase, ShardTask(0, START, {}))


def test_a_worker_that_was_thought_dead_undoes_nothing_where_both_replace_a_stale_shard() -> None:
    """It has begun with the same stale shards, wakes when they are made anew, and has other texts than those."""
    run, bound = made(MemoryStorage())
    phase = first_steps(bound)
    stale = {
        event.number: event.committed
        for event in taken(run, bound, phase, ShardTask(0, START, {}))
        if isinstance(event, Committed)
    }
    task = ShardTask(0, "made from other rows", stale)
    faster = [event for event in taken(run, bound, phase, task) if isinstance(event, Committed)]
    before = {name: run.storage.read(name) for name in run.storage.names()}
    later = list[Event]()

    async def wake() -> None:
        queue = EngineQueue(OtherTexts())
        await Worker(run, bound, phase, queue, later.append).take(task)

    asyncio.run(wake())
    assert [event for event in later if isinstance(event, Committed)] == faster
    assert {name: run.storage.read(name) for name in run.storage.names()} == before


class OtherTexts(ScriptedEngine):
    """Not batch-invariant: it writes something else each time it is asked."""

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        return await super().complete(prompt, replace(sampling, seed=sampling.seed + 1))


def test_rows_that_another_worker_made_are_read_from_storage() -> None:
    """The second phase is done by a worker that has seen nothing of the first."""
    storage = MemoryStorage()
    run, bound = made(storage, small_recipe(embed=None, dedup=None, filter=None))
    (phase,) = bound.plan.phases
    first = phase.up_to("clean")
    commits = [e for e in taken(run, bound, first, ShardTask(1, START, {})) if isinstance(e, Committed)]
    rest = taken(run, bound, phase, ShardTask(1, START, {one.number: one.committed for one in commits}))
    assert [one.step for one in rest if isinstance(one, Committed)] == ["tag", "respond", "extend"]
    alone, bound_too = made(MemoryStorage(), run.recipe)
    taken(alone, bound_too, phase, ShardTask(1, START, {}))
    assert storage.names() == alone.storage.names()
    assert all(storage.read(name) == alone.storage.read(name) for name in storage.names())


def test_a_step_that_loses_rows_commits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run, bound = made(MemoryStorage())
    work = type(bound.work[1])
    whole = work.run  # type: ignore[union-attr]

    async def losing(self: Any, rows: pa.Table, engine: Any) -> pa.Table:
        return (await whole(self, rows, engine)).slice(1)

    monkeypatch.setattr(work, "run", losing)
    with pytest.raises(RunError, match="step clean gave other rows or columns"):
        taken(run, bound, first_steps(bound), ShardTask(0, START, {}))
    assert run.storage.names() == ["steps/01-instruct/00000.parquet"]


def test_when_the_build_is_over_nothing_more_is_written() -> None:
    run, bound = made(MemoryStorage())
    with pytest.raises(StoppedError):
        taken(run, bound, first_steps(bound), ShardTask(0, START, {}), is_over=lambda: True)
    assert run.storage.names() == []


def test_an_engine_that_is_lost_leaves_no_half_shard_and_an_empty_queue() -> None:
    class Lost(ScriptedEngine):
        async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
            raise EngineError("lost")

    run, bound = made(MemoryStorage())
    queue = EngineQueue(Lost())
    queue.begin(0, 16)

    async def take() -> None:
        await Worker(run, bound, first_steps(bound), queue, lambda _: None).take(ShardTask(0, START, {}))

    with pytest.raises(EngineError, match="lost"):
        asyncio.run(take())
    assert run.storage.names() == []
    assert (queue.in_flight, queue.requests) == (0, 0) and queue.has_room.is_set()


def test_what_the_steps_say_of_a_shard_is_decided_by_its_position_alone() -> None:
    run, bound = made(MemoryStorage())
    rows = first_rows(run, bound, 5)
    assert rows["index"].to_pylist() == list(range(80, 96))
    assert rows["id"].to_pylist() == [f"{bound.id_prefix}-{at:08d}" for at in range(80, 96)]
    assert rows["rejected"].null_count == 16


# In another process


def events_of_all_kinds(run: Run, bound: BoundPlan) -> list[Event]:
    events = taken(run, bound, first_steps(bound), ShardTask(0, START, {}))
    return [Loading("a model"), Loaded("a", "b", "c"), Working("a → b"), Found("a", 3, 1), *events]


def test_all_that_goes_between_processes_can_be_sent(tmp_path: Path) -> None:
    run, bound = made(LocalStorage(tmp_path / "run"))
    events = events_of_all_kinds(run, bound)
    committed = {event.number: event.committed for event in events if isinstance(event, Committed)}
    sent = (run.recipe, run.storage.location, bound.plan.phases, ShardTask(3, "x", committed), events)
    assert pickle.loads(pickle.dumps(sent)) == sent
    there = pickle.loads(pickle.dumps(run))
    assert there.recipe == run.recipe and there.steps == run.steps
    assert there.read(there.steps[0], 0).equals(run.read(run.steps[0], 0))


def take_elsewhere(recipe: Recipe, folder: Path, phase_number: int, task: ShardTask) -> list[Event]:
    """What a worker process does that is given a recipe, a folder and a task, and nothing else."""
    plan = make_plan(recipe)
    run, bound = Run(LocalStorage(folder), plan.recipe, plan.steps), bind(plan, BuildTools())
    events: list[Event] = []

    async def take() -> None:
        executor = LocalExecutor()
        try:
            await executor.run(run, bound, plan.phases[phase_number], [task], events.append)
        finally:
            await executor.close()

    asyncio.run(take())
    return events


class InOtherProcesses:
    """An Executor that hands every shard to a process of its own choosing."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self.pool = pool
        self.tasks = 0

    async def run(
        self, run: Run, bound: BoundPlan, phase: Phase, tasks: Sequence[ShardTask], report: Report
    ) -> None:
        self.tasks += len(tasks)
        number = bound.plan.phases.index(phase)
        loop = asyncio.get_running_loop()
        futures = [
            loop.run_in_executor(self.pool, take_elsewhere, run.recipe, run.folder, number, task)
            for task in tasks
        ]
        for future in asyncio.as_completed(futures):
            for event in await future:
                report(event)

    async def close(self) -> None:
        """The pool is the test's."""


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        yield processes


def test_a_shard_that_another_process_committed_is_found(tmp_path: Path, pool: ProcessPoolExecutor) -> None:
    recipe = small_recipe(rows=48)
    run, bound = made(LocalStorage(tmp_path / "run"), recipe)
    record(run, ingredients_of(run.recipe, bound.ingredients))
    events = pool.submit(take_elsewhere, recipe, run.folder, 0, ShardTask(1, START, {})).result()
    commits = [event for event in events if isinstance(event, Committed)]
    assert [(one.step, one.shard) for one in commits] == [("instruct", 1), ("clean", 1), ("embed", 1)]
    manifest, damaged = Manifest.scan(run)
    assert damaged == []
    assert [manifest.get(run_step, 1) for run_step in run.steps[:3]] == [one.committed for one in commits]
    seen: list[Event] = []
    driver = Driver(run, bound, LocalExecutor(), seen.append)
    asyncio.run(driver.build(stop_after="embed"))
    assert seen[:3] == [Found(one.step, 16, one.rejected) for one in commits]
    made_here = {(one.step, one.shard) for one in seen if isinstance(one, Committed)}
    assert made_here == {(step, shard) for step in ("instruct", "clean", "embed") for shard in (0, 2)}
    finished = build(recipe, tmp_path / "run")
    assert verify(finished) == [] and quarantined(finished) == []
    assert tree(finished.folder) == tree(build(recipe, tmp_path / "alone").folder)


def test_a_build_by_other_processes_is_the_same_to_the_byte(
    tmp_path: Path, pool: ProcessPoolExecutor
) -> None:
    recipe = small_recipe(rows=64)
    executor = InOtherProcesses(pool)
    run = build(recipe, tmp_path / "run", executor=executor)
    assert executor.tasks == 2 * 4, "two phases of row steps, four shards each"
    assert tree(run.folder) == tree(build(recipe, tmp_path / "alone").folder)
    assert verify(run) == []
    events = [json.loads(line) for line in (run.folder / LOG).read_text().splitlines()]
    shards = [(one["step"], one["shard"]) for one in events if one["event"] == "shard"]
    assert sorted(shards) == sorted((run_step.name, shard) for run_step in run.steps for shard in range(4))


# The executor in this process


def test_an_engine_stays_loaded_as_long_as_the_next_phase_wants_it() -> None:
    opened: list[Any] = []

    class Watched(ScriptedEngine):
        is_closed = False

        async def close(self) -> None:
            self.is_closed = True

    async def opener(model: Any) -> Watched:
        engine = await open_engine(model)
        assert isinstance(engine.model, ModelInfo)
        opened.append(Watched(model.script))
        return opened[-1]

    async def both(first: Phase, second: Phase, executor: LocalExecutor, events: list[Event]) -> None:
        for phase in (first, second):
            await executor.run(run, bound, phase, [], events.append)

    other_judge = {
        "generator": "scripted",
        "judge": {"model": "scripted", "slots": 7},
        "embedder": "scripted",
    }
    for models, engines in ((small_recipe().models, 1), (small_recipe(models=other_judge).models, 2)):
        opened.clear()
        run, bound = made(MemoryStorage(), small_recipe().model_copy(update={"models": models}))
        first, second = [phase for phase in bound.plan.phases if phase.needs_engine][:2]
        executor, events = LocalExecutor(engines=opener), list[Event]()
        asyncio.run(both(first, second, executor, events))
        assert len(opened) == engines == sum(isinstance(event, Loaded) for event in events)
        assert [one.is_closed for one in opened] == [True] * (engines - 1) + [False]
        asyncio.run(executor.close())
        assert all(one.is_closed for one in opened)


def test_completions_of_one_step_and_shard_travel_together() -> None:
    one, other = Completed("tag", 5, 100, 96, 1, 0), Completed("tag", 7, 100, 0, 0, 0)
    unknown, elsewhere = Completed("tag", 3, shard=0), Completed("tag", 2, 10, 0, 0, 1)
    committed = Committed("tag", 0, 0, 2, 0, None)
    assert merge_completions([one, other, unknown, elsewhere, committed, one]) == [
        Completed("tag", 12, 200, 96, 1, 0, 2),
        unknown,
        elsewhere,
        committed,
        one,
    ]


def test_only_an_answer_that_makes_room_for_a_shard_wakes_the_scheduler() -> None:
    queue = EngineQueue(ScriptedEngine(Script(slots=8)))
    below = [queue.begins_below(running, 4) for running in (0, 19, 20, 79, 80)]
    assert below == [16, 16, 8, 8, 0]  # more shards than enough only for empty slots, and not without end
    queue.wakes_below = below[2]
    for _ in range(9):
        queue.asked(0)
    queue.answered()
    assert not queue.has_room.is_set()  # every slot has work
    queue.answered()
    assert queue.has_room.is_set()
