"""What a build would cost on given GPUs: memory, tokens, hours, dollars, disk. Nothing is loaded.

Times are a roofline's (`sizing/roofline.py`): a bound that a build comes near and does not beat. Every figure says what
it stands on.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from magpie.plan.licences import Licensed, licences_of
from magpie.plan.phase_costs import Measured, PhaseCost, phase_cost
from magpie.plan.phases import Plan
from magpie.sizing import lengths
from magpie.sizing.cards import Card
from magpie.sizing.measured import Published, published


@dataclass(frozen=True, slots=True)
class Costs:
    """A whole build. `kept` are the rows of the dataset, None where nothing says how many; `kept_source` says what.

    GPU hours count GPUs at work; wall hours and dollars count all of them, from the first phase's start to the end of
    the last whose time is known. `unknown` names the phases whose time is not.
    """

    recipe: str
    rows: int
    card: str | None
    gpus: int
    price: float
    phases: tuple[PhaseCost, ...]
    licences: tuple[Licensed, ...]
    kept: float | None
    kept_source: str
    disk_bytes: int
    files: int
    published: Published | None
    rows_source: str

    @property
    def gpu_hours(self) -> float:
        """GPUs at work, all phases together."""
        return sum(phase.gpu_hours or 0.0 for phase in self.phases)

    @property
    def wall_hours(self) -> float:
        """One phase after the other."""
        return sum(phase.wall_hours or 0.0 for phase in self.phases)

    @property
    def dollars(self) -> float:
        """All GPUs for all that time."""
        return self.wall_hours * self.gpus * self.price

    @property
    def unknown(self) -> tuple[str, ...]:
        """The phases that load a model and whose time nothing says."""
        return tuple(phase.name for phase in self.phases if phase.model and phase.wall_hours is None)

    def per_thousand(self, rows: float | None) -> float | None:
        """Dollars for 1,000 of so many rows; None where nothing is known."""
        return self.dollars / rows * 1000 if rows and self.wall_hours and not self.unknown else None

    def gpu_hours_of(self, step: str) -> float | None:
        """The GPU hours of one step; None where they are not known."""
        found = (each for phase in self.phases for each in phase.steps if each.name == step)
        return next((each.gpu_hours for each in found), None)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON can hold it."""
        totals = {name: getattr(self, name) for name in ("gpu_hours", "wall_hours", "dollars", "unknown")}
        prices = {"raw": self.per_thousand(self.rows), "kept": self.per_thousand(self.kept)}
        return {**asdict(self), **totals, "dollars_per_1000": prices}


def plan_costs(
    plan: Plan, card: Card | None, *, gpus: int = 1, price: float = 0.0, measured: Measured | None = None
) -> Costs:
    """What the plan would cost on `gpus` cards at `price` dollars an hour each.

    Without a card only memory and tokens are known, and the times that an earlier run of it `measured` here.
    """
    phases = tuple(phase_cost(phase, plan.recipe.rows, card, gpus, measured) for phase in plan.phases)
    kept, source = _kept(plan, measured)
    return Costs(
        recipe=plan.recipe.name,
        rows=plan.recipe.rows,
        card=None if card is None else card.name,
        gpus=gpus,
        price=price,
        phases=phases,
        licences=licences_of(plan),
        kept=kept,
        kept_source=source,
        disk_bytes=plan.disk_bytes,
        # A shard of every step, and the dataset's own files.
        files=plan.recipe.shards * (len(plan.steps) + 1),
        published=published(recipe=plan.recipe.name),
        rows_source=_rows_source(plan, measured),
    )


def _rows_source(plan: Plan, measured: Measured | None) -> str:
    if measured is not None:
        return f"rows and tokens of each step: as in {measured.run} ({measured.rows:,} rows)"
    early = "; every row is taken to reach every step: how many are dropped on the way, only a run says (--like RUN)"
    return f"lengths: about {lengths.RESPONSE} tokens a response, lognormal, as published (arXiv 2406.08464){early}"


def _kept(plan: Plan, measured: Measured | None) -> tuple[float | None, str]:
    """How many rows the dataset will have, and what says so."""
    recipe = plan.recipe
    top = None if recipe.filter is None or recipe.filter.top is None else recipe.filter.top.n
    if measured is not None and measured.kept is not None:
        share, source = measured.kept, f"the share kept in {measured.run}"
    elif recipe.filter is None:
        return None, "no filter: all but rejected rows"
    else:
        run = published(filter=recipe.filter.name)
        if run is None:
            return None, f"nothing says what {recipe.filter.name} keeps; a small run would: --like RUN"
        share, source = run.kept, f"published of {recipe.filter.name}: {run.kept:.0%} of {run.rows:,} rows"
    return min(share * recipe.rows, top or math.inf), source
