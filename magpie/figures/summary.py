"""A finished run in figures, `report.json`: where its rows went, what they cost in tokens, and what more would give.

It follows from the run's shards alone. It holds no times and no places, so that equal runs have equal reports, and
nothing reads it to go on: without it a run is as whole as with it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from magpie.figures.status import Status, status
from magpie.runs.run import Run
from magpie.runs.shards import storage_errors, sync_folder, write_durably
from magpie.steps.filter import FilterStep, FunnelLine, PrefilterStep

FORMAT = 1


def report_path(run: Run) -> Path:
    """Where a run keeps its report."""
    return run.folder / "report.json"


def write_report(run: Run) -> None:
    """Write the report of a finished run, in the place of an earlier one. Raises StorageError."""
    text = json.dumps(report(run), indent=1, ensure_ascii=False) + "\n"
    write_durably(report_path(run), text.encode())


def discard_report(run: Run) -> None:
    """Take away a report that will be out of date. Raises StorageError."""
    path = report_path(run)
    if path.is_file():
        with storage_errors(path):
            path.unlink()
            sync_folder(path.parent)


def report(run: Run) -> dict[str, Any]:
    """The figures of a run as JSON can hold them: `format`, its status but for places, and the filter's `funnel`."""
    found = status(run)
    figures = found.to_json()
    for place in ("folder", "damaged", "finished"):
        del figures[place]
    lines = filter_funnel(run, found)
    return {
        "format": FORMAT,
        **figures,
        "funnel": None if lines is None else [asdict(line) for line in lines],
    }


def filter_funnel(run: Run, found: Status) -> tuple[FunnelLine, ...] | None:
    """Rows in, lost and left for each rule of the run's filter, the quotas and the top; None without a filter.

    A rule is counted alike wherever it was applied: rows that another step rejected on the way, such as one that got no
    answer, did not come to the filter. What is left after one line comes to the next, and after the last it is `kept`.
    """
    part = run.recipe.filter
    if part is None:
        return None
    names: list[str] = []
    for planned in run.plan.steps:
        if isinstance(planned.step, PrefilterStep | FilterStep):
            names += [rule.name for rule in planned.step.rules]
    names += [name for name, limit in (("quota", part.quotas), ("top", part.top)) if limit is not None]
    lost = {reason: count for step in found.steps for reason, count in step.rejected.items()}
    counts = [lost.get(f"filter: {name}", 0) for name in names]
    rows_in = found.steps[-1].rows_out + sum(counts)
    lines = []
    for name, count in zip(names, counts, strict=True):
        lines.append(FunnelLine(name, rows_in, count, rows_in - count))
        rows_in -= count
    return tuple(lines)
