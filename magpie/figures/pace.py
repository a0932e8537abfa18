"""How fast the phases of a run go, beside how fast they were planned to: from its log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from magpie.figures.run_log import events_of, phase_seconds
from magpie.plan import Plan
from magpie.plan.costs import plan_costs
from magpie.runs.run import Run
from magpie.sizing.cards import Card

PLANNED = "planned"
"""The event of the log that holds the rows/s of each phase for which there is a plan."""


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
    planned = [event for event in events_of(run) if event.get("event") == PLANNED]
    rates = planned[-1].get("rows_per_second") if planned else None
    if not isinstance(rates, dict):
        return ()
    seconds = phase_seconds(run)
    return tuple(
        Pace(name, float(rate), run.recipe.rows / seconds[name] if seconds.get(name) else None)
        for name, rate in rates.items()
    )
