"""A plan, printed: what a build would do, for `--dry-run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from magpie.engines import find_engine
from magpie.plan.licences import licences_of
from magpie.report.foreseen import print_foreseen, print_seconds
from magpie.report.text import as_text
from magpie.text import counted, sized

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.plan import DryRun, Phase, Plan
    from magpie.recipe import Filter, Model


def print_plan(dry: DryRun, console: Console) -> None:
    """Print the phases with their models, then the shards, the disk space, the filter, and what is not there."""
    plan, recipe = dry.plan, dry.plan.recipe
    title = Text(f"{recipe.name}: {counted(recipe.rows, 'row')} into {dry.folder}", style="table.title")
    table = Table(title=title, title_justify="left", box=None)
    for heading in ("phase", "steps", "model", "runs on"):
        table.add_column(heading, overflow="fold")
    for number, phase in enumerate(plan.phases, start=1):
        table.add_row(str(number), phase.name, Text(_model(phase)), _where(phase))
    console.print(table)
    shards = (
        f"{counted(recipe.shards, 'shard')} of {counted(min(recipe.shard_rows, recipe.rows), 'row')}, "
        f"{counted(len(plan.steps), 'step')}"
    )
    console.print(f"{shards}; about {sized(plan.disk_bytes)} of disk", highlight=False)
    if recipe.steer is not None:
        values = {name: len(texts) for name, texts in recipe.steer.variables.items()}
        counts = "".join(f", {count} of {name}" for name, count in values.items())
        combined = {"cross": "; crossed", "sample": "; sampled"}[recipe.steer.combine] if values else ""
        console.print(
            f"steered by {counted(len(recipe.steer.prompts), 'system prompt')}{counts}{combined}",
            highlight=False,
        )
    if recipe.filter is not None:
        console.print(Text(f"filter {recipe.filter.name}: {_filter(plan, recipe.filter)}"), soft_wrap=True)
    for licensed in licences_of(plan):
        console.print(Text("licence ").append_text(as_text(licensed.text)), soft_wrap=True)
    for rule in plan.skipped_rules:
        console.print(Text(f"left out, the run has no such column: {rule}"), soft_wrap=True)
    if recipe.method == "magpie" and recipe.instruct.stop_at_newline:
        console.print(
            "an instruction ends at its first newline; for users who write several lines: "
            "--set instruct.stop_at_newline=false",
            highlight=False,
            soft_wrap=True,
        )
    _print_what_stands(dry, console)
    if dry.looked.elsewhere:
        names = ", ".join(dry.looked.elsewhere)
        console.print(as_text(f"on the hub, not looked up: {names}"), soft_wrap=True)
    for problem in dry.looked.missing:
        console.print(Text("missing ", "bold red").append_text(as_text(problem, "default")), soft_wrap=True)
    console.print("No weights were loaded, and nothing was written.", highlight=False)


def _print_what_stands(dry: DryRun, console: Console) -> None:
    """Print where the build ends, and what it finds that it need not make."""
    plan, recipe = dry.plan, dry.plan.recipe
    if recipe.until is not None:
        until = recipe.until
        console.print(
            as_text(
                f"until {counted(until.kept, 'row')} are kept: begins with these, and asks for {until.limit:,} at most"
            ),
            soft_wrap=True,
        )
    if dry.stop_after is not None:
        console.print(f"stops after {dry.stop_after}", highlight=False)
    if dry.reuse is not None and dry.taken:
        _print_taken(dry, console)
    if dry.change is not None:
        console.print(as_text(f"changed in {dry.folder}: {dry.change}"), soft_wrap=True)
    if dry.foreseen:
        print_foreseen(dry.foreseen, "what stands, and what is to be made", console)
        print_seconds(dry.foreseen, plan, dry.sources[0].run, console)


def _print_taken(dry: DryRun, console: Console) -> None:
    """Print, step by step, what would be taken over from the other run."""
    title = Text(f"taken over from {dry.reuse}", style="table.title")
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("step")
    table.add_column("shards")
    shards = dry.plan.recipe.shards
    for taken in dry.taken:
        what = f"{taken.shards:,} of {shards:,}" if taken.shards else "made anew"
        table.add_row(taken.step, what)
    console.print(table)


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
    parts = [f"{counted(len(filter.rules), 'rule')}, {pushed_down} of them before a response is paid for"]
    if filter.quotas is not None:
        parts.append(f"quotas by {filter.quotas.by}")
    if filter.top is not None:
        parts.append(f"top {filter.top.n:,} by {filter.top.by}")
    return "; ".join(parts)
