"""A plan, printed: what a build would do, for `--dry-run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from magpie.engines import find_engine

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.plan import Phase, Plan
    from magpie.recipe import Filter, Model


def print_plan(plan: Plan, out: Path, console: Console, *, stop_after: str | None = None) -> None:
    """Print the phases with their models, then the shards, the disk space and the filter.

    `stop_after` is the step after which the build is to stop.
    """
    recipe = plan.recipe
    title = Text(f"{recipe.name}: {recipe.rows:,} rows into {out}", style="table.title")
    table = Table(title=title, title_justify="left", box=None)
    for heading in ("phase", "steps", "model", "runs on"):
        table.add_column(heading, overflow="fold")
    for number, phase in enumerate(plan.phases, start=1):
        table.add_row(str(number), phase.name, Text(_model(phase)), _where(phase))
    console.print(table)
    shards = f"{recipe.shards:,} shards of {recipe.shard_rows:,} rows, {len(plan.steps)} steps"
    console.print(f"{shards}; about {_size(plan.disk_bytes)} of disk", highlight=False)
    if recipe.steer is not None:
        values = {name: len(texts) for name, texts in recipe.steer.variables.items()}
        counts = "".join(f", {count} of {name}" for name, count in values.items())
        combined = {"cross": "; crossed", "sample": "; sampled"}[recipe.steer.combine] if values else ""
        console.print(
            f"steered by {len(recipe.steer.prompts)} system prompts{counts}{combined}", highlight=False
        )
    if recipe.filter is not None:
        console.print(Text(f"filter {recipe.filter.name}: {_filter(plan, recipe.filter)}"), soft_wrap=True)
    for rule in plan.skipped_rules:
        console.print(Text(f"left out, the run has no such column: {rule}"), soft_wrap=True)
    if stop_after is not None:
        console.print(f"stops after {stop_after}", highlight=False)
    console.print("Nothing was loaded or written.", highlight=False)


def _model(phase: Phase) -> str:
    return "" if phase.model is None else phase.model.model


def _where(phase: Phase) -> str:
    if phase.is_global:
        return "all rows at once"
    if phase.model is None:
        return "CPU"
    return _engine(phase.model) if phase.needs_engine else "sentence-transformers"


def _engine(model: Model) -> str:
    engine = find_engine(model.engine).name
    gpus = f", tensor parallel {model.tensor_parallel}" if model.tensor_parallel > 1 else ""
    return f"{engine}{gpus}, context {model.context_length:,}"


def _filter(plan: Plan, filter: Filter) -> str:
    # The last step has the rules that cannot be applied before the responses.
    pushed_down = sum(len(run_step.step.rules) for run_step in plan.steps[:-1])
    parts = [f"{len(filter.rules)} rules, {pushed_down} of them before a response is paid for"]
    if filter.quotas is not None:
        parts.append(f"quotas by {filter.quotas.by}")
    if filter.top is not None:
        parts.append(f"top {filter.top.n:,} by {filter.top.by}")
    return "; ".join(parts)


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
