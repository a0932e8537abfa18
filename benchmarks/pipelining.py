"""Past the machines at hand: one to many GPUs simulated, with the code that schedules them in earnest.

An engine is a step time that grows with the sequences it runs. The shards go through the scheduler of the worker and
the dispatcher of the Ray executor, unchanged, on a clock that jumps. The same requests go through the loop of the
original scripts on the same engine: batches of 200, each waiting for its longest answer, all instructions first and
then all responses. Parquet, tokenizing and the network are left out.

The card is an A100 with Llama-3-8B in bfloat16 and 256 slots. STEP_MS below is its step time.

Lengths are lognormal. Responses are 430 tokens long on average and instructions 35, as published (45 with the chat
template around them). How far the longest lie from that is not published, but the hours of both passes are, and a loop
over batches waits for the longest. 1.55 hours of four cards are 1.5 seconds for 200 instructions: these differ little.
50 hours are 48 seconds for 200 responses, time for nearly 4,000 steps: so most batches had an answer that did not end
by itself and ran to the end of the context, 4,096 tokens. _SPREADS and _ENDLESS are such that the simulated loop takes
the published hours; `loop_hours` shows both.

`ratio` is of 46,875 rows on one GPU, a 64th of Air's 3,000,000; the fewer there are, the more the last rows of a build
weigh. `ratio_at_most` is what a scheduler would reach that leaves no slot empty from start to end.
`ratio_to_published` holds the same rows against the hours that Air's authors state.
`ratio_without_endless` is with no answer that runs to its limit, and a standard deviation of 217 tokens, which is
stated for the finished rows: then batches wait for little, and would have taken about half of the published hours.

Rows for more GPUs are more, so that each has as much to do (weak scaling): 16,000, in 188 shards, as many as eight GPUs
have of Air's. An engine that is killed is back after a minute. Without --quick, 64 GPUs are simulated as well, and 512
with a million rows, 2,000 each in shards of 50: what its last rows cost is seen there.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.fleet import Gpu, Outcome, Tokens, simulate

STEP_MS = {
    1: 11.8, 4: 11.8, 16: 12.5, 32: 13.4, 64: 14.4, 100: 17.6, 128: 19.8, 200: 27.3, 256: 29.5,
}  # fmt: skip
"""Milliseconds of a step with so many running sequences, 45 tokens in and 430 out, the prompts' share in it.

By aiconfigurator 0.12 (NVIDIA's measured kernel tables; backend vllm, a100_sxm, the shape of Llama-3.1-8B, which is
that of Llama-3-8B). A line through the figures at 256 slots and more, as it stood here before, has 8.7 ms for one
sequence, which is where a loop over batches spends most of its time.
"""

SLOTS = 256
BATCH = 200
SHARDS = 188
AIR = 3_000_000
ALONE = AIR // 64
PER_GPU = 16_000
MILLION = 512 * 2000
PUBLISHED = (4 * 1.55, 4 * 50.0)
"""A100 hours of Air's instructions and of its responses, as its authors state them (arXiv 2406.08464)."""

_CONTEXT = 4096
_MEANS = (35, 430)
_SPREADS = (0.35, 0.7)
_LIMITS = (2048, _CONTEXT - 45)
_ENDLESS = 0.006
_DEVIATION = 217
CALM: dict[str, Any] = {"endless": 0.0, "spread": math.sqrt(math.log(1 + (_DEVIATION / _MEANS[1]) ** 2))}
KILL_EVERY = 600.0


_STEPS = np.interp(np.arange(SLOTS + 1), list(STEP_MS), list(STEP_MS.values())) / 1000


def step_seconds(running: int) -> float:
    """The seconds of one step with so many running sequences."""
    return float(_STEPS[running])


A100 = Gpu(SLOTS, step_seconds)


def lengths(rows: int, *, endless: float = _ENDLESS, spread: float = _SPREADS[1]) -> Tokens:
    """Tokens of each row's instruction and response. `endless` of the responses run to the limit."""
    drawn = np.random.default_rng(0)
    # The published mean is that of all responses, those that do not end included.
    ending = (_MEANS[1] - endless * _LIMITS[1]) / (1 - endless)
    instructions, responses = (
        np.clip(drawn.lognormal(np.log(mean) - sigma**2 / 2, sigma, rows).astype(np.int64), 1, limit)
        for mean, sigma, limit in zip((_MEANS[0], ending), (_SPREADS[0], spread), _LIMITS, strict=True)
    )
    responses[drawn.random(rows) < endless] = _LIMITS[1]
    return instructions, responses


def loop_seconds(tokens: Tokens) -> tuple[float, float]:
    """Seconds of the original's loop on one GPU, for all instructions and for all responses."""
    instructions, responses = (
        sum(_batch_seconds(np.sort(of_step[at : at + BATCH])) for at in range(0, len(of_step), BATCH))
        for of_step in tokens
    )
    return instructions, responses


def _batch_seconds(ends: np.ndarray[Any, Any]) -> float:
    """Seconds until the longest sequence of a batch has ended; `ends` are the lengths, sorted."""
    running = np.arange(len(ends), 0, -1)
    return float((np.diff(ends, prepend=0) * _STEPS[running]).sum())


def main() -> None:
    """Simulate, show, and end with one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipelining", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="up to 8 GPUs")
    parser.add_argument(
        "--out", metavar="FOLDER", type=Path, help="write pipelining.json and pipelining.png there"
    )
    chosen = parser.parse_args()
    began = time.process_time()
    more, millions = ((8,), ()) if chosen.quick else ((8, 64), (MILLION,))
    total = 2 * ALONE + PER_GPU * (1 + sum(more) + 2 * 16) + sum(millions)
    gc.set_threshold(50_000)  # no cycle is made for each request, of which there are millions
    with _bar() as bar:
        task = bar.add_task("simulated rows", total=total)
        run = partial(_simulated, on_rows=lambda rows: bar.advance(task, rows))
        alone, calm = run(1, ALONE), run(1, ALONE, **CALM)
        scaled = [run(gpus, gpus * PER_GPU) for gpus in (1, *more)]
        undisturbed, killed = (run(8, 16 * PER_GPU, kill_every=every) for every in (None, KILL_EVERY))
        wide = [run(512, rows, shard_rows=50) for rows in millions]
    _show([*scaled, *wide, undisturbed, killed])
    result = {
        "benchmark": "pipelining",
        **_ratios(alone, calm),
        "slots_used": round(min(outcome.slots_used for outcome in scaled), 4),
        **{f"{_WORDS[each.gpus]}_over_one": _times(each, scaled[0]) for each in scaled[1:]},
        "fault_cost": round(killed.seconds / undisturbed.seconds - 1, 4),
        "killed": killed.killed,
        **{f"million_hours_on_{each.gpus}": round(each.seconds / 3600, 3) for each in wide},
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    if chosen.out is not None:
        from benchmarks.pipelining_plots import plot

        chosen.out.mkdir(parents=True, exist_ok=True)
        plot(chosen.out / "pipelining.png", alone, scaled, wide)
        (chosen.out / "pipelining.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


_WORDS = {8: "eight", 64: "sixty_four"}


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _simulated(
    gpus: int,
    rows: int,
    *,
    on_rows: Callable[[int], None],
    shard_rows: int | None = None,
    kill_every: float | None = None,
    **of_lengths: float,
) -> Outcome:
    shard_rows = shard_rows or -(-rows // (gpus * SHARDS))
    tokens = lengths(rows, **of_lengths)
    return simulate(A100, gpus, tokens, shard_rows=shard_rows, kill_every=kill_every, on_rows=on_rows)


def _ratios(alone: Outcome, calm: Outcome) -> dict[str, Any]:
    """How the rows of one GPU compare with the loop, simulated and published."""
    tokens = lengths(ALONE)
    parts = loop_seconds(tokens)
    full = sum(int(of_step.sum()) for of_step in tokens) * step_seconds(SLOTS) / SLOTS
    return {
        "ratio": round(sum(parts) / alone.seconds, 2),
        "ratio_at_most": round(sum(parts) / full, 2),
        "ratio_to_published": round(alone.rows_per_gpu_hour / (AIR / sum(PUBLISHED)), 2),
        "ratio_without_endless": round(sum(loop_seconds(lengths(ALONE, **CALM))) / calm.seconds, 2),
        "loop_hours": [round(part / ALONE * AIR / 3600, 1) for part in parts],
        "published_hours": PUBLISHED,
    }


def _times(many: Outcome, one: Outcome) -> float:
    return round(many.gpus * many.rows_per_gpu_hour / one.rows_per_gpu_hour, 2)


def _show(outcomes: list[Outcome]) -> None:
    loop = sum(loop_seconds(lengths(ALONE)))
    table = Table("way", "GPUs", "rows", "hours", "rows a GPU hour", "slots used", box=None)
    table.add_row("as published", "4", f"{AIR:,}", "51.55", f"{AIR / sum(PUBLISHED):,.0f}", "")
    table.add_row(
        "batches of 200", "1", f"{ALONE:,}", f"{loop / 3600:.2f}", f"{ALONE / loop * 3600:,.0f}", ""
    )
    for outcome in outcomes:
        table.add_row(
            f"{outcome.killed} engines killed" if outcome.killed else "scheduled",
            str(outcome.gpus),
            f"{outcome.rows:,}",
            f"{outcome.seconds / 3600:.2f}",
            f"{outcome.rows_per_gpu_hour:,.0f}",
            f"{outcome.slots_used:.1%}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
