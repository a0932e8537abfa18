"""What a run says of the next one: how many rows came to each step, how many tokens were written, how long it took."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from magpie.errors import RunError
from magpie.figures.status import status
from magpie.plan import make_plan
from magpie.plan.phase_costs import Measured
from magpie.runs.run import LOG, Run


def measured_by(run: Run) -> Measured:
    """What `run` measured, as far as it has come. Raises RunError where it has no shard yet."""
    done = [step for step in status(run).steps if step.shards_done]
    if not done:
        raise RunError(f"{run.storage.location} has no shard yet; plan by a run that has come further")
    # Of a run that is not finished, a step has seen as many shards as it has done.
    rows = {step.name: run.recipe.rows * step.shards_done / step.shards for step in done}
    kept = status(run).kept
    return Measured(
        run=str(run.storage.location),
        rows=run.recipe.rows,
        shares={step.name: step.rows_in / rows[step.name] for step in done},
        tokens={step.name: step.tokens / step.rows_in for step in done if step.tokens and step.rows_in},
        seconds=phase_seconds(run),
        kept=None if kept is None else kept / run.recipe.rows,
    )


def phase_seconds(run: Run) -> dict[str, float]:
    """How long each phase took, loading left out, for all rows of the run: as its log has it. Phases it lacks are out.

    Of a phase that is not through, or that was taken over in part, the time is that of the rows made, scaled up.
    """
    seconds: dict[str, float] = {}
    events = list(_events(run))
    for phase in make_plan(run.recipe).phases:
        steps = [run_step.name for run_step in phase.steps]
        began, spent, rows = None, 0.0, 0
        for event in events:
            if event.get("event") == "doing":
                began = event["time"] if event.get("what") == phase.name else None
            elif event.get("event") == "shard" and event.get("step") in steps and began is not None:
                spent += event["time"] - began
                began = event["time"]
                rows += event["rows"] if event["step"] == steps[-1] else 0
        if rows:
            seconds[phase.name] = spent * run.recipe.rows / rows
    return seconds


def _events(run: Run) -> Iterator[dict[str, Any]]:
    try:
        lines = run.storage.read(LOG).decode("utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # cut by a full disk
        if isinstance(event, dict) and isinstance(event.get("time"), int | float):
            yield event
