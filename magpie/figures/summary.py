"""A finished run in figures, `report.json`: where its rows went, what they cost in tokens, and what more would give.

It follows from the run's shards alone. It holds no times and no places, so that equal runs have equal reports, and
nothing reads it to go on: without it a run is as whole as with it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from magpie.figures.funnel import filter_funnel
from magpie.figures.status import status
from magpie.runs.run import SUMMARY, Run

FORMAT = 1


def write_summary(run: Run) -> None:
    """Write the summary of a finished run, in the place of an earlier one. Raises StorageError."""
    text = json.dumps(summary(run), indent=1, ensure_ascii=False) + "\n"
    run.storage.replace(SUMMARY, text.encode())


def summary(run: Run) -> dict[str, Any]:
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
