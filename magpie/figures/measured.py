"""What a run says of the next one: how many rows came to each step, how many tokens were written, how long it took."""

from __future__ import annotations

from magpie.errors import RunError
from magpie.figures.run_log import phase_seconds
from magpie.figures.status import status
from magpie.plan.phase_costs import Measured
from magpie.runs.run import Run


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
