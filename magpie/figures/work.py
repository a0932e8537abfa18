"""What a run cost: tokens a second as it went on, hours and dollars, beside what was planned."""

from __future__ import annotations

from dataclasses import dataclass

from magpie.figures.pace import PLANNED, Pace, paces
from magpie.figures.run_log import at_work, events_of, seconds_at_work
from magpie.plan import make_plan
from magpie.runs.run import Run

_PARTS = 40  # of the whole time, in each of which tokens are counted
_HOUR = 3600
OTHER = "loading, and other"


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second of one phase in equal parts of the time: (seconds at work so far, tokens a second)."""

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
    planned = [event for event in events_of(run) if event.get("event") == PLANNED]
    gpus = planned[-1].get("gpus") if planned else None
    found = paces(run)
    return Work(
        seconds_at_work(run), gpus if isinstance(gpus, int) else None, _speeds(run), found, _spent(run, found), price
    )  # fmt: skip


def _speeds(run: Run) -> tuple[Speed, ...]:
    phase_of = {
        run_step.name: phase.name for phase in make_plan(run.recipe).phases for run_step in phase.steps
    }
    of_phase: dict[str, list[tuple[float, int]]] = {}
    so_far: dict[str, int] = {}
    for event, seconds in at_work(run):
        step = event.get("step")
        if event.get("event") != "shard" or not event.get("tokens") or step not in phase_of:
            continue
        # The log counts on from shard to shard; another build of the run begins anew.
        total = int(event["tokens"])
        tokens = total - so_far.get(step, 0) if total >= so_far.get(step, 0) else total
        so_far[step] = total
        of_phase.setdefault(phase_of[step], []).append((seconds, tokens))
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
