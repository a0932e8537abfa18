"""What a build tells besides its progress: licences, rules left out, disk space, planned speeds, rows newly rejected.

And the report at its end, which tells the most.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from magpie.engines.gpus import gpus_here
from magpie.execution.base import Executor
from magpie.execution.local import LocalExecutor
from magpie.execution.progress import Progress
from magpie.figures.pace import PLANNED, planned_rates
from magpie.plan import Plan
from magpie.plan.licences import licences_of
from magpie.runs.change import rows_out_anew
from magpie.runs.earlier import REPLACED
from magpie.runs.run import Run
from magpie.runs.standing import Source
from magpie.sizing.cards import card_of_device, driver_names
from magpie.text import sized


def note_at_start(run: Run, plan: Plan, progress: Progress) -> None:
    """Note what a person should know before a model is loaded."""
    for licensed in licences_of(plan):
        if licensed.free is False:
            progress.note(f"licence {licensed.text}")
    for rule in run.skipped_rules:
        progress.note(f"filter rule left out, the run has no such column: {rule}")
    needed, free = plan.disk_bytes, run.storage.free_bytes()
    if free is not None and free < needed:
        progress.note(
            f"the run may take {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free; "
            "a full disk stops the build, it loses nothing"
        )
    progress.log.write("started", recipe=run.recipe.name, rows=run.recipe.rows, shards=run.shards)


def room_needed(run: Run, plan: Plan) -> str:
    """How much of a disk the whole run takes, and how much of that it has."""
    there = 0
    for name in run.storage.names():
        with suppress(OSError):  # a file that only informs may go at any time
            there += run.storage.local_path(name).stat().st_size
    return f"the whole run takes about {sized(plan.disk_bytes)}, and {sized(there)} of it are there"


def log_plan(plan: Plan, executor: Executor, progress: Progress) -> None:
    """Log how fast each phase should be at most on this machine's GPUs, where they are known: `status` shows it."""
    gpus = gpus_here()
    devices = driver_names() if gpus else []
    card = card_of_device(devices[0]) if devices else None
    if card is not None:
        rates = planned_rates(plan, card, gpus=None if isinstance(executor, LocalExecutor) else gpus)
        progress.log.write(PLANNED, card=card.name, gpus=gpus, rows_per_second=rates)
        progress.planned = {
            phase.steps[0].name: rates[phase.name] for phase in plan.phases if phase.name in rates
        }


def note_newly_rejected(run: Run, sources: Sequence[Source], progress: Progress) -> None:
    """Note why rows are rejected that the run before had kept: a larger whole has more repeats."""
    here = f"{run.storage.location}/{REPLACED}"
    earlier = (source.run for source in sources if source.location.startswith(here))
    before = next((run for run in earlier if run.first_unfinished is None), None)
    reasons = {} if before is None else rows_out_anew(run, before)
    if before is not None and reasons:
        listed = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
        progress.note(f"{sum(reasons.values()):,} of the rows kept before are out now: {listed}")
        progress.log.write("out anew", rows=reasons)


def write_report(run: Run, progress: Progress) -> None:
    """Write the report of a finished run, unless it is there: the run is whole without it."""
    from magpie.report.page.writing import MOST_ROWS, is_up_to_date, write_at_end

    try:
        if is_up_to_date(run):
            return
        if run.recipe.rows > MOST_ROWS:
            progress.note(
                f"the report is not written by itself for so many rows: magpie report {run.storage.location}"
            )
            return
        progress.doing("writing the report")
        write_at_end(run)
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        progress.note(
            f"the report could not be written ({why}); write it with: magpie report {run.storage.location}"
        )
