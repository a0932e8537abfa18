"""What a run cost: tokens a second as it went on, hours and dollars, beside what was planned."""

from __future__ import annotations

from dataclasses import dataclass

from magpie.figures.pace import Pace, paces, planned_by
from magpie.figures.run_log import at_work, seconds_at_work
from magpie.plan import make_plan
from magpie.runs.run import Run

_PARTS = 40  # of a phase's time, at most, in each of which tokens are counted
_SHORTEST = 0.5  # seconds of such a part
_HOUR = 3600
OTHER = "loading, and other"


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second of one phase, part by part: (seconds at work, tokens a second) where a part begins and ends."""

    phase: str
    tokens: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Spent:
    """The seconds of one phase, loading left out; and as the run went on, (seconds of all work, those of the phase).

    `planned` are the seconds that it takes at least, by the plan; None without one. The last of a run's is OTHER.
    """

    phase: str
    seconds: float
    points: tuple[tuple[float, float], ...]
    planned: float | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """`seconds` that all builds were at work; `gpus` they used, None where the log names none; `price` of an hour."""

    seconds: float | None
    gpus: int | None
    speeds: tuple[Speed, ...]
    paces: tuple[Pace, ...]
    spent: tuple[Spent, ...] = ()
    price: float | None = None

    @property
    def gpu_hours(self) -> float | None:
        """Hours of all GPUs together."""
        return None if self.seconds is None or self.gpus is None else self.seconds * self.gpus / _HOUR

    def hours(self, seconds: float) -> float:
        """So much time in hours that are paid for: of all GPUs, or of the machine where there is none."""
        return seconds * (self.gpus or 1) / _HOUR

    @property
    def cost(self) -> float | None:
        """Dollars of all work at `price` for an hour of a GPU, or of the machine without one; None without a price."""
        return None if self.price is None or self.seconds is None else self.price * self.hours(self.seconds)


def work(run: Run, *, price: float | None = None) -> Work:
    """What the log of a run says of its times; the builds of a resumed run stand one after the other."""
    gpus, _ = planned_by(run)
    found = paces(run)
    return Work(seconds_at_work(run), gpus, _speeds(run), found, _spent(run, found), price)


def _speeds(run: Run) -> tuple[Speed, ...]:
    plan = make_plan(run.recipe)
    phase_of = {run_step.name: phase.name for phase in plan.phases for run_step in phase.steps}
    of_phase: dict[str, list[tuple[float, int]]] = {phase.name: [] for phase in plan.phases}
    so_far: dict[str, int] = {}
    for event, seconds in at_work(run):
        step = event.get("step")
        if event.get("event") == "doing" and event.get("what") in of_phase:
            of_phase[event["what"]].append((seconds, 0))
        if event.get("event") != "shard" or not event.get("tokens") or step not in phase_of:
            continue
        # The log counts on from shard to shard; another build of the run begins anew.
        total = int(event["tokens"])
        tokens = total - so_far.get(step, 0) if total >= so_far.get(step, 0) else total
        so_far[step] = total
        of_phase[phase_of[step]].append((seconds, tokens))
    speeds = (_speed(phase, shards) for phase, shards in of_phase.items() if len(shards) > 1)
    return tuple(speed for speed in speeds if speed.tokens)


def _speed(phase: str, shards: list[tuple[float, int]]) -> Speed:
    """Tokens are known when their shard is done: they were written since those before it, or since the phase began.

    `shards` has the beginnings too, with no tokens.
    """
    width = max((shards[-1][0] - shards[0][0]) / _PARTS, _SHORTEST)
    parts: list[tuple[float, float, int]] = []
    began, waiting = shards[0][0], 0
    for time, tokens in shards[1:]:
        waiting += tokens
        if not tokens and not waiting:
            began = time  # a build that goes on: until then models were loaded
        elif time - began >= width:
            parts.append((began, time, waiting))
            began, waiting = time, 0
    if waiting:  # what came right after the last part
        first, _, held = parts.pop() if parts and parts[-1][1] == began else (began, began, 0)
        parts.append((first, max(shards[-1][0], first + _SHORTEST), held + waiting))
    points = [
        (round(time, 1), round(tokens / (end - start), 1))
        for start, end, tokens in parts
        for time in (start, end)
    ]
    return Speed(phase, sum(tokens for _, tokens in shards), tuple(points))


def _spent(run: Run, found: tuple[Pace, ...]) -> tuple[Spent, ...]:
    """The time of each phase, and of all that is none."""
    phases = [phase.name for phase in make_plan(run.recipe).phases]
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in [*phases, OTHER]}
    now, before = OTHER, 0.0
    for event, seconds in at_work(run):
        if seconds > before:
            past = points[now]
            own = past[-1][1] if past else 0.0
            if not past or past[-1][0] < before:
                past.append((before, own))
            past.append((seconds, own + seconds - before))
            before = seconds
        if event.get("event") == "doing":
            now = event["what"] if event.get("what") in phases else OTHER
    planned = {pace.phase: run.recipe.rows / pace.planned for pace in found if pace.planned}
    return tuple(
        Spent(name, past[-1][1], _thinned(past), planned.get(name)) for name, past in points.items() if past
    )


def _thinned(points: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Some of the points, the last among them: a chart shows no more."""
    step = max(1, len(points) // 100)
    return tuple(
        (round(time, 1), round(own, 1))
        for number, (time, own) in enumerate(points)
        if number % step == 0 or number == len(points) - 1
    )
