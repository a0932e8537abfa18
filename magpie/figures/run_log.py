"""What the log of a run says of its times. It informs: nothing is decided by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from magpie.plan import make_plan
from magpie.replies import whole_number
from magpie.runs.run import LOG, Run

FIRST_STAGE = "reading models and templates"
"""What a build says first of all that it is at."""

_NAMES = ("event", "what", "step")
_LATEST = 253_402_300_800  # the year 10,000, in seconds since 1970
_MOST = 1 << 53  # rows or tokens


def phase_seconds(run: Run) -> dict[str, float]:
    """How long each phase took, loading left out, for all rows of the run: as its log has it. Phases it lacks are out.

    Of a phase that is not through, or that was taken over in part, the time is that of the rows made, scaled up.
    """
    seconds: dict[str, float] = {}
    events = list(events_of(run))
    for phase in make_plan(run.recipe).phases:
        steps = [run_step.name for run_step in phase.steps]
        began, spent, rows = None, 0.0, 0
        for event in events:
            if event.get("event") == "doing":
                began = event["time"] if event.get("what") == phase.name else None
            elif event.get("event") == "shard" and event.get("step") in steps and began is not None:
                spent += event["time"] - began
                began = event["time"]
                rows += event.get("rows", 0) if event["step"] == steps[-1] else 0
        if rows:
            seconds[phase.name] = spent * run.recipe.rows / rows
    return seconds


def seconds_at_work(run: Run) -> float | None:
    """How long all the builds of the run were at work, one after the other, loading included; None without a log."""
    times = [seconds for _, seconds in at_work(run)]
    return round(times[-1], 1) if times else None


def at_work(run: Run) -> Iterator[tuple[dict[str, Any], float]]:
    """Each event, and how many seconds builds of the run had been at work by then: between two nobody was."""
    seconds, before = 0.0, None
    for event in events_of(run):
        begins = event.get("event") == "doing" and event.get("what") == FIRST_STAGE
        if before is not None and not begins:
            seconds += max(event["time"] - before, 0.0)
        before = event["time"]
        yield event, seconds


def events_of(run: Run) -> Iterator[dict[str, Any]]:
    """The events of the run's log, in order; lines that were cut are passed over."""
    try:
        lines = run.storage.read(LOG).decode("utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        event = event_in(line)
        if event is not None:
            yield event


def event_in(line: str | bytes) -> dict[str, Any] | None:
    """The event in a line of a log; None where the line was cut by a full disk, or is none that a build writes."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or any(not isinstance(event.get(name, ""), str) for name in _NAMES):
        return None
    seconds = event.get("time")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < _LATEST:
        return None
    counts = (event.get(name, 0) for name in ("rows", "tokens")) if event.get("event") == "shard" else ()
    return event if all(whole_number(count, most=_MOST) is not None for count in counts) else None
