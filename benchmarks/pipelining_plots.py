"""The figures of `benchmarks.pipelining`: how many GPUs, and how full one is over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fleet import Outcome
from benchmarks.pipelining import AIR, ALONE, BATCH, PUBLISHED, SLOTS, lengths, loop_seconds, step_seconds

_MINUTES = 10


def plot(path: Path, alone: Outcome, scaled: list[Outcome], wide: list[Outcome]) -> None:
    """Rows a GPU hour over GPUs, and the sequences that run on one GPU in its first minutes of responses."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    loop = ALONE / sum(loop_seconds(lengths(ALONE))) * 3600
    left.axhline(loop, color="#777777", linestyle="--", label="batches of 200, simulated")
    left.axhline(AIR / sum(PUBLISHED), color="#bb5500", linestyle=":", label="as published")
    rates = [outcome.rows_per_gpu_hour for outcome in scaled]
    left.plot(
        [outcome.gpus for outcome in scaled],
        rates,
        "o-",
        color="#1f5fa8",
        label="scheduled, 16,000 rows a GPU",
    )
    for outcome in wide:
        rows = f"{outcome.rows:,} rows in all"
        left.plot(outcome.gpus, outcome.rows_per_gpu_hour, "s", color="#7a4fa3", label=rows)
    left.set(xscale="log", xlabel="GPUs", ylabel="rows a GPU hour", ylim=(0, None))
    gpus = [outcome.gpus for outcome in (*scaled, *wide)]
    left.set_xticks(gpus, [str(number) for number in gpus])
    left.minorticks_off()
    left.legend(frameon=False)
    at, running = _loop_over_time(_MINUTES * 60)
    right.plot(at / 60, running, color="#777777", linewidth=1, label="batches of 200")
    ours = np.array(alone.running[: _MINUTES * 30])
    right.plot(np.arange(len(ours)) / 30, ours, color="#1f5fa8", linewidth=1, label="scheduled")
    right.set(xlabel="minutes", ylabel="sequences that run", xlim=(0, _MINUTES), ylim=(0, SLOTS * 1.05))
    right.legend(frameon=False, loc="center right")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def _loop_over_time(seconds: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Times, and how many responses of the loop's batches run then."""
    times, running, now = list[float](), list[int](), 0.0
    for ends in np.split(np.sort(lengths(40 * BATCH)[1].reshape(-1, BATCH), axis=1), 40):
        before = 0
        for done, end in enumerate(ends[0]):
            times.append(now)
            running.append(BATCH - done)
            now += (int(end) - before) * step_seconds(BATCH - done)
            before = int(end)
        times.append(now)
        running.append(0)
        if now > seconds:
            break
    return np.array(times), np.array(running)
