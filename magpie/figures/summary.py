"""A finished run in figures, `report.json`: where its rows went, what they cost in tokens, what more rows would give.

It is computed from the run's shards alone. It holds no times and no paths, so that equal runs have equal reports. No
build reads it: a run without it is complete.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from magpie.figures.funnel import filter_funnel
from magpie.figures.status import Status
from magpie.runs.run import SUMMARY, Run

FORMAT = 1


def write_summary(run: Run, found: Status) -> None:
    """Write the summary of a finished run, whose status is `found`, in the place of an earlier one.

    Raises StorageError.
    """
    text = json.dumps(summary(run, found), indent=1, ensure_ascii=False) + "\n"
    run.storage.replace(SUMMARY, text.encode())


def summary(run: Run, found: Status) -> dict[str, Any]:
    """The figures of a run as JSON can hold them: `format`, its status without paths, and the filter's `funnel`."""
    figures = found.to_json()
    # A path, a list of paths, what is always true of a finished run, the build that writes this, its times, and what
    # is not computed by counting alone.
    for name in ("folder", "damaged", "finished", "running", "paces", "seconds", "collapse"):
        del figures[name]
    lines = filter_funnel(run, found)
    return {
        "format": FORMAT,
        **figures,
        "funnel": None if lines is None else [asdict(line) for line in lines],
    }
