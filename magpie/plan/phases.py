"""What a plan is: steps in their places, and phases of neighbouring steps that share one loaded model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from magpie.recipe import Model, Recipe
from magpie.runs.run import RunStep
from magpie.steps import Method


@dataclass(frozen=True, slots=True)
class Phase:
    """Neighbouring row steps that share one loaded model, or one global or sequential step.

    `model` is what is loaded, by the worker or by a step; None where nothing is. `scores` says that a scorer is loaded
    in the place of an engine.
    """

    steps: tuple[RunStep, ...]
    model: Model | None
    scores: bool = False

    @property
    def is_global(self) -> bool:
        """Whether this is a global step, and so a barrier."""
        return self.steps[0].is_global

    @property
    def is_sequential(self) -> bool:
        """Whether a shard can be made only when the one before it is there."""
        return self.steps[0].is_sequential

    @property
    def needs_engine(self) -> bool:
        """Whether an engine, or a scorer, has to be loaded for the phase."""
        return any(needs_engine(run_step) for run_step in self.steps)

    @property
    def name(self) -> str:
        """The names of the steps, joined by arrows."""
        return " → ".join(run_step.name for run_step in self.steps)

    def up_to(self, name: str) -> Phase:
        """The phase without the steps behind the one of that name; as it is, when it has no such step."""
        names = [run_step.name for run_step in self.steps]
        return replace(self, steps=self.steps[: names.index(name) + 1]) if name in names else self


@dataclass(frozen=True, slots=True)
class Plan:
    """What a build will do, by the steps of a method."""

    recipe: Recipe
    method: Method
    steps: tuple[RunStep, ...]
    phases: tuple[Phase, ...]

    @property
    def skipped_rules(self) -> tuple[str, ...]:
        """What to say of each rule of the filter that is left out because the run lacks its columns."""
        return tuple(rule for run_step in self.steps for rule in run_step.step.skipped_rules)

    @property
    def disk_bytes(self) -> int:
        """About how many bytes the run will take: an order of magnitude."""
        # The dataset holds about half of it again.
        return sum(run_step.step.bytes_per_row for run_step in self.steps) * self.recipe.rows * 3 // 2


def needs_engine(run_step: RunStep) -> bool:
    """Whether an engine, or a scorer, has to be loaded for the step."""
    use = run_step.step.uses
    return use is not None and use.needs_engine


def into_phases(steps: tuple[RunStep, ...]) -> tuple[Phase, ...]:
    """The steps in phases: as few as there can be without a model loaded beside another."""
    phases: list[Phase] = []
    for run_step in steps:
        use = run_step.step.uses
        alone = Phase(
            (run_step,),
            model=None if use is None else use.loaded,
            scores=use is not None and use.purpose == "score",
        )
        if phases and _can_join(phases[-1], alone):
            last = phases[-1]
            phases[-1] = Phase(
                (*last.steps, run_step), last.model or alone.model, last.scores or alone.scores
            )
        else:
            phases.append(alone)
    return tuple(phases)


def with_row_tokens(phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """The phases, each model with how many tokens a request of it usually holds at its end.

    An engine works its slots out of that. It is the longest kind of request of all phases that load the same model: it
    stays loaded from one to the next.
    """
    longest: dict[str, float] = {}
    for phase in phases:
        if phase.needs_engine and phase.model is not None:
            asked = [request.tokens for run_step in phase.steps for request in run_step.step.requests]
            key = _loaded_as(phase)
            longest[key] = max(longest.get(key, 0.0), *asked, 0.0)
    return tuple(
        replace(
            phase, model=phase.model.model_copy(update={"row_tokens": math.ceil(longest[_loaded_as(phase)])})
        )
        if phase.model is not None and phase.model.row_tokens is None and longest.get(_loaded_as(phase))
        else phase
        for phase in phases
    )


def _loaded_as(phase: Phase) -> str:
    return f"{phase.scores} {phase.model!r}"


def _can_join(phase: Phase, alone: Phase) -> bool:
    """Whether the step needs nothing loaded besides what the phase has."""
    if phase.is_global or alone.is_global or phase.is_sequential or alone.is_sequential:
        return False
    if phase.model is None or alone.model is None:
        return True
    return phase.model == alone.model and phase.scores == alone.scores
