"""How fast the phases of a run go, beside how fast they were planned to: from its log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from magpie.figures.run_log import events_of, phase_seconds
from magpie.plan import Plan
from magpie.plan.costs import plan_costs
from magpie.replies import whole_number
from magpie.runs.run import Run
from magpie.sizing.cards import Card

PLANNED = "planned"
"""The event of the log that holds the rows/s of each phase for which there is a plan."""

_MOST_GPUS = 1 << 20


@dataclass(frozen=True, slots=True)
class Pace:
    """Rows a second of one phase: as planned by a roofline, which is a bound from above, and as measured so far."""

    phase: str
    planned: float
    measured: float | None


def planned_rates(plan: Plan, card: Card, *, gpus: int | None) -> Mapping[str, float]:
    """Rows a second of each phase, by its name, on so many GPUs; None is one engine. Phases without a plan are out."""
    rates = {}
    for phase in plan_costs(plan, card, gpus=gpus or 8).phases:
        if not phase.gpu_hours:
            continue
        size = 1 if phase.fit is None else phase.fit.tensor_parallel
        used = size if gpus is None else size * phase.engines
        rates[phase.name] = round(plan.recipe.rows * used / (phase.gpu_hours * 3600), 2)
    return rates


def paces(run: Run) -> tuple[Pace, ...]:
    """The phases that the latest build of the run had planned."""
    _, rates = planned_by(run)
    seconds = phase_seconds(run) if rates else {}
    return tuple(
        Pace(name, rate, run.recipe.rows / seconds[name] if seconds.get(name) else None)
        for name, rate in rates.items()
    )


def planned_by(run: Run) -> tuple[int | None, Mapping[str, float]]:
    """The GPUs that the latest build used, None where its log names none, and the rows/s planned for each phase."""
    planned = [event for event in events_of(run) if event.get("event") == PLANNED]
    event = planned[-1] if planned else {}
    rates = event.get("rows_per_second")
    return whole_number(event.get("gpus"), most=_MOST_GPUS), {
        name: float(rate)
        for name, rate in (rates.items() if isinstance(rates, dict) else ())
        if isinstance(rate, int | float) and 0 < rate < math.inf
    }
