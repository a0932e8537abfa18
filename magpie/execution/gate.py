"""Where a build is checked before it goes on: after some shards of the first steps, and before the first response.

What is looked at, and what follows from it, is the caller's: see `figures/gatekeeper.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magpie.plan import Phase
from magpie.runs.run import Run, RunStep

if TYPE_CHECKING:
    from magpie.recipe import Gate


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One check of the gate, due when the first `shards` are through `part`, the steps of a phase up to there.

    `part` is None where it is due before the whole phase. The rows stand before the step `before` then. `name` says for
    people when it is due.
    """

    name: str
    part: Phase | None
    shards: int
    before: RunStep


GateChecker = Callable[[GateCheck], None]
"""Does a check. Raises GateError where the build may not go on."""


def gate_checks(run: Run, gate: Gate | None, phase: Phase) -> Iterator[GateCheck]:
    """The checks in a phase, in order: none where the run has no answers, for there is nothing to save then."""
    answering = next((run_step for run_step in run.steps if run_step.step.answers), None)
    instruction = run.step_adding("instruction")
    if gate is None or answering is None or instruction is None or phase.is_sequential:
        return
    early = [run_step for run_step in phase.steps if run_step.number < answering.number]
    part = phase.up_to(early[-1].name) if early else None
    if instruction in early and part is not None:
        after = run.steps[early[-1].number]
        counts: dict[int, float] = {}
        for share in sorted(gate.at):
            counts.setdefault(max(1, math.ceil(share * run.shards)), share)
        for shards, share in counts.items():
            percent = f"{100 * share:.3f}".rstrip("0").rstrip(".")
            yield GateCheck(f"at {percent}% of the rows", part, shards, after)
    if gate.before_answers and answering in phase.steps:
        if instruction in early:
            yield GateCheck("before the first response", part, run.shards, answering)
        else:
            yield GateCheck("before the first response", None, run.shards, phase.steps[0])
