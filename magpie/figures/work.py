"""What a run cost in time: tokens a second as it went on, and hours, beside what was planned."""

from __future__ import annotations

from dataclasses import dataclass

from magpie.figures.pace import PLANNED, Pace, paces
from magpie.figures.run_log import events_of, seconds_at_work
from magpie.plan import make_plan
from magpie.runs.run import Run

_PARTS = 40  # of the whole time, in each of which tokens are counted


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second of one phase in equal parts of the time: (seconds since the first event, tokens a second)."""

    phase: str
    tokens: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Work:
    """`seconds` that all builds were at work; `gpus` they used, None where the log names none; and the speeds."""

    seconds: float | None
    gpus: int | None
    speeds: tuple[Speed, ...]
    paces: tuple[Pace, ...]

    @property
    def gpu_hours(self) -> float | None:
        """Hours of all GPUs together."""
        return None if self.seconds is None or self.gpus is None else self.seconds * self.gpus / 3600


def work(run: Run) -> Work:
    """What the log of a run says of its times; the builds of a resumed run stand one after the other."""
    planned = [event for event in events_of(run) if event.get("event") == PLANNED]
    gpus = planned[-1].get("gpus") if planned else None
    return Work(seconds_at_work(run), gpus if isinstance(gpus, int) else None, _speeds(run), paces(run))


def _speeds(run: Run) -> tuple[Speed, ...]:
    phase_of = {
        run_step.name: phase.name for phase in make_plan(run.recipe).phases for run_step in phase.steps
    }
    events = [
        event
        for event in events_of(run)
        if event.get("event") == "shard" and event.get("tokens") and event.get("step") in phase_of
    ]
    began = next((event["time"] for event in events_of(run)), 0.0)
    of_phase: dict[str, list[tuple[float, int]]] = {}
    so_far: dict[str, int] = {}
    for event in events:
        # The log counts on from shard to shard; another build of the run begins anew.
        step, total = event["step"], int(event["tokens"])
        tokens = total - so_far.get(step, 0) if total >= so_far.get(step, 0) else total
        so_far[step] = total
        of_phase.setdefault(phase_of[step], []).append((event["time"] - began, tokens))
    return tuple(_speed(phase, shards) for phase, shards in of_phase.items() if len(shards) > 1)


def _speed(phase: str, shards: list[tuple[float, int]]) -> Speed:
    """Tokens are counted when their shard is done, so a part's speed is of the shards that ended in it."""
    first, last = shards[0][0], shards[-1][0]
    width = max((last - first) / _PARTS, 0.5)
    parts: dict[int, int] = {}
    for time, tokens in shards:
        part = int((time - first) / width)
        parts[part] = parts.get(part, 0) + tokens
    points = tuple(
        (round(first + (part + 0.5) * width, 1), round(parts.get(part, 0) / width, 1))
        for part in range(max(parts) + 1)
    )
    return Speed(phase, sum(tokens for _, tokens in shards), points)
