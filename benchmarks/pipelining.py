"""Past the machines at hand: one to many GPUs simulated, with the code that schedules them in earnest.

An engine is a step time that grows with the sequences it runs. The shards go through the scheduler of the worker and
the hand-out of the Ray executor, unchanged, on a clock that jumps. The same requests go through the way of the original
scripts: batches of 200, each waiting for its longest answer, all instructions first and then all responses.

What is simulated is an A100 with Llama-3-8B in bfloat16 and 256 slots: a step of n sequences takes 8.6 + 0.081 n
milliseconds, which gives the tokens a second that NVIDIA's aiconfigurator 0.12 states for 256, 384 and 768 slots.
Lengths are lognormal with means of 45 and 430 tokens, at most 2,048 and 4,096, and one answer in 100 does not end by
itself and runs to its limit: with so many, batches of 200 take about the time that was published for Air.
Parquet, tokenizing and the network are left out.

Rows for more GPUs are more, so that each has as much to do (weak scaling), in 188 shards a GPU, as eight GPUs would
have of Air's 3,000,000 rows. Without --quick the whole of those is simulated on 64. `ratio` is of 48,000 rows on one
GPU: the fewer there are, the more the last rows of a build weigh. `ratio_to_published` holds them against the hours
that Air's authors state, of which the simulated batches take nine tenths.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.virtual_time import SimulatedEngine, VirtualLoop
from magpie.engines.base import Sampling
from magpie.execution.base import Event, ShardDone, ShardTask
from magpie.execution.ray.dispatcher import Dispatcher
from magpie.execution.scheduler import EngineQueue, QueuedEngine, TaskQueue, shard_demand, stream
from magpie.plan import BuildTools, bind, make_plan
from magpie.recipe.loading import parse_recipe
from magpie.runs.run import Run
from magpie.storage import MemoryStorage

PUBLISHED = 3_000_000 / 206
"""Rows in each A100 hour of the published Air, as its authors state them: instructions and responses."""

SLOTS = 256
SHARDS = 188
BATCH = 200
_LIMITS = (2048, 4096)
_MEANS = (45.0, 430.0)
_SPREAD = (0.8, 0.7)
_ENDLESS = 1 / 100
_EXCHANGE = 0.5
_RESTART = 60.0
_KILL_EVERY = 600.0


def step_seconds(running: int) -> float:
    """The seconds of one step with so many running sequences."""
    return 0.0086 + 0.000081 * running


def lengths(rows: int, seed: int) -> tuple[np.ndarray[Any, Any], ...]:
    """Tokens of each row's instruction and response."""
    drawn = np.random.default_rng(seed)
    found = []
    for mean, spread, limit, endless in zip(_MEANS, _SPREAD, _LIMITS, (0.0, _ENDLESS), strict=True):
        tokens = drawn.lognormal(np.log(mean) - spread**2 / 2, spread, rows).astype(np.int64)
        tokens[drawn.random(rows) < endless] = limit
        found.append(np.clip(tokens, 1, limit))
    return tuple(found)


@dataclass(slots=True)
class Outcome:
    """One simulated build. `slots_used` is the share of slots with work in them until the last shard was handed out."""

    gpus: int
    rows: int
    seconds: float
    slots_used: float
    killed: int

    @property
    def rows_per_gpu_hour(self) -> float:
        """Pairs of instruction and response."""
        return self.rows / self.gpus / self.seconds * 3600


@dataclass(slots=True)
class _Fleet:
    """All engines of a build, and what is known of them all."""

    dispatcher: Dispatcher
    shard_rows: int
    tokens: tuple[np.ndarray[Any, Any], ...]
    begun: list[float] = field(default_factory=list)
    engines: dict[int, SimulatedEngine] = field(default_factory=dict)
    crews: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    busy_before: float = 0.0
    tail_at: float | None = None
    killed: int = 0

    def length(self, row: int, step: int) -> int:
        return int(self.tokens[step][row])


def simulate(gpus: int, rows: int, *, kill_every: float | None = None, seed: int = 0) -> Outcome:
    """Build so many rows on so many GPUs; one engine is killed every `kill_every` seconds."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(_build(gpus, rows, kill_every, seed))
    finally:
        loop.close()


async def _build(gpus: int, rows: int, kill_every: float | None, seed: int) -> Outcome:
    shards = gpus * SHARDS
    shard_rows = rows // shards
    recipe = parse_recipe(
        {
            "name": "simulated",
            "rows": rows,
            "shard_rows": shard_rows,
            "engine": "scripted",
            "models": {"generator": "scripted", "judge": "generator", "embedder": "scripted"},
            "language": None, "embed": None, "dedup": None, "tag": None, "filter": None,
        }
    )  # fmt: skip
    plan = make_plan(recipe)
    run, bound = Run(MemoryStorage(), plan.recipe, plan.steps), bind(plan, BuildTools())
    tasks = [ShardTask(shard, "", {}) for shard in range(shards)]
    dispatcher = Dispatcher(run, bound, plan.phases[0], tasks, lambda event: None)
    fleet = _Fleet(dispatcher, shard_rows, lengths(rows, seed))
    loop = asyncio.get_running_loop()
    for number in range(gpus):
        fleet.crews[number] = asyncio.create_task(_crew(fleet, number))
    killer = None if kill_every is None else asyncio.create_task(_kill(fleet, kill_every, seed))
    while not dispatcher.is_over:
        await asyncio.wait(fleet.crews.values(), timeout=5, return_when=asyncio.FIRST_COMPLETED)
        for task in fleet.crews.values():
            if task.done() and not task.cancelled():
                task.result()
        if all(task.done() for task in fleet.crews.values()) and not dispatcher.is_over:
            await asyncio.sleep(1)
    if killer is not None:
        killer.cancel()
    await asyncio.gather(*fleet.crews.values(), return_exceptions=True)
    seconds = loop.time()
    at = fleet.tail_at or seconds
    used = fleet.busy_before / (at * gpus * SLOTS)
    return Outcome(gpus, rows, seconds, used, fleet.killed)


async def _crew(fleet: _Fleet, number: int) -> None:
    """One GPU: its engine, and shards handed to it until none are left."""
    loop, dispatcher = asyncio.get_running_loop(), fleet.dispatcher
    engine = fleet.engines[number] = SimulatedEngine(SLOTS, step_seconds, fleet.length)
    queue, tasks, shard_rows = EngineQueue(engine), TaskQueue(ended=False), fleet.shard_rows

    def report(event: Event) -> None:
        dispatcher.handle(number, event)

    async def take(task: ShardTask) -> None:
        asked = QueuedEngine(queue, task.shard, lambda event: None)
        first = task.shard * shard_rows
        try:
            for step in (0, 1):
                sampling = Sampling(max_tokens=_LIMITS[step], seed=step)
                rows = range(first, first + shard_rows)
                await asyncio.gather(*(asked.complete((row,), sampling) for row in rows))
            report(ShardDone(task.shard))
        finally:
            queue.leave(task.shard)

    working = asyncio.create_task(
        stream(tasks, take, queue, rows_of=lambda shard: shard_rows, shard_rows=shard_rows)
    )
    try:
        while not dispatcher.is_over:
            tasks.put(dispatcher.take(number, shard_demand(queue, len(tasks), tasks.running, shard_rows)))
            if fleet.tail_at is None and not dispatcher.has_waiting:
                fleet.tail_at = loop.time()
                fleet.busy_before = sum(engine.busy_slot_seconds for engine in fleet.engines.values())
            await asyncio.sleep(_EXCHANGE)
            if working.done():
                working.result()
        tasks.end()
        await working
    finally:
        working.cancel()
        await engine.close()


async def _kill(fleet: _Fleet, every: float, seed: int) -> None:
    """Kill an engine every so often; it is back after the time that loading takes."""
    drawn = random.Random(seed)
    while True:
        await asyncio.sleep(every)
        number = drawn.choice(sorted(fleet.crews))
        crew = fleet.crews[number]
        if crew.done() or fleet.dispatcher.is_over:
            continue
        crew.cancel()
        await asyncio.gather(crew, return_exceptions=True)
        fleet.killed += 1
        fleet.dispatcher.lost(number)
        fleet.crews[number] = asyncio.create_task(_later(fleet, number))


async def _later(fleet: _Fleet, number: int) -> None:
    await asyncio.sleep(_RESTART)
    if not fleet.dispatcher.is_over:
        await _crew(fleet, number)


def batch_loop(rows: int, *, seed: int = 0) -> float:
    """Seconds of the original's way on one GPU: batches of 200, all instructions and then all responses."""
    return sum(
        _batch_seconds(np.sort(tokens[at : at + BATCH]))
        for tokens in lengths(rows, seed)
        for at in range(0, rows, BATCH)
    )


def _batch_seconds(ends: np.ndarray[Any, Any]) -> float:
    """Seconds until the longest sequence of a batch has ended; `ends` are the lengths, sorted."""
    before, seconds = 0, 0.0
    for done, end in enumerate(ends):
        seconds += (int(end) - before) * step_seconds(len(ends) - done)
        before = int(end)
    return seconds


def main() -> None:
    """Simulate, show, and end with one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipelining", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="fewer rows and up to 8 GPUs")
    parser.add_argument("--plot", metavar="FILE", help="draw rows a GPU hour over GPUs as PNG")
    chosen = parser.parse_args()
    per_gpu, per_gpu_alone = 16_000 if chosen.quick else 48_000, 48_000
    counts = (1, 8) if chosen.quick else (1, 8, 64)
    began = time.monotonic()
    batches = per_gpu_alone / (batch_loop(per_gpu_alone) / 3600)
    alone = simulate(1, per_gpu_alone)
    outcomes = [simulate(gpus, gpus * per_gpu) for gpus in counts]
    faulty = _fault_cost(per_gpu)
    if not chosen.quick:
        outcomes.append(simulate(64, 3_000_000))
    _show(batches, [alone, *outcomes], faulty)
    by_gpus = {outcome.gpus: outcome for outcome in outcomes[: len(counts)]}
    one, eight = by_gpus[1], by_gpus[8]
    result = {
        "benchmark": "pipelining",
        "ratio": round(alone.rows_per_gpu_hour / batches, 2),
        "ratio_to_published": round(alone.rows_per_gpu_hour / PUBLISHED, 2),
        "slots_used": round(min(outcome.slots_used for outcome in outcomes), 4),
        "eight_over_one": round(8 * eight.rows_per_gpu_hour / one.rows_per_gpu_hour, 2),
        "fault_cost": round(faulty[1].seconds / faulty[0].seconds - 1, 4),
        "seconds": round(time.monotonic() - began, 1),
    }
    if 64 in by_gpus:
        result["sixty_four_over_one"] = round(64 * by_gpus[64].rows_per_gpu_hour / one.rows_per_gpu_hour, 2)
    if chosen.plot:
        _plot(chosen.plot, batches, outcomes)
    print(json.dumps(result))


def _fault_cost(per_gpu: int) -> tuple[Outcome, Outcome]:
    """The same build on eight GPUs undisturbed, and with an engine killed every 10 minutes."""
    rows = 8 * 2 * per_gpu
    return simulate(8, rows), simulate(8, rows, kill_every=_KILL_EVERY)


def _show(batches: float, outcomes: list[Outcome], faulty: tuple[Outcome, Outcome]) -> None:
    table = Table("way", "GPUs", "rows", "hours", "rows a GPU hour", "slots used", box=None)
    table.add_row("batches of 200", "1", "", "", f"{batches:,.0f}", "")
    for outcome in (*outcomes, *faulty):
        way = f"{outcome.killed} engines killed" if outcome.killed else "scheduled"
        table.add_row(
            way,
            str(outcome.gpus),
            f"{outcome.rows:,}",
            f"{outcome.seconds / 3600:.2f}",
            f"{outcome.rows_per_gpu_hour:,.0f}",
            f"{outcome.slots_used:.1%}",
        )
    Console().print(table)


def _plot(path: str, batches: float, outcomes: list[Outcome]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.axhline(batches, color="grey", linestyle="--", label="batches of 200")
    axes.plot([o.gpus for o in outcomes], [o.rows_per_gpu_hour for o in outcomes], "o-", label="scheduled")
    axes.set(xscale="log", xlabel="GPUs", ylabel="rows a GPU hour", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
