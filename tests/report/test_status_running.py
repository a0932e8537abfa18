"""The status of a run, printed: a build that is at work says so."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

from builds import small_recipe
from rich.console import Console

from magpie.build import build
from magpie.figures.status import status
from magpie.report.run_table import print_status
from magpie.runs.live import Running, StepProgress


def test_a_build_at_work_says_so_with_its_rate_and_what_is_left(tmp_path: Path) -> None:
    step = StepProgress("respond", 40, 96, 40, 8, 900, 2.5, 19.2)
    running = Running("here\x1b[2J", 77, 0.0, 3723.0, 1.0, "respond", (step,))
    said = StringIO()
    finished = status(build(small_recipe(), tmp_path / "run"))
    print_status(replace(finished, running=running, finished=False), Console(file=said, width=300))
    line = said.getvalue().splitlines()[0]
    assert "(process 77, for 1:02:03); respond; respond 48 of 96, 2.5 rows/s, 0:00:19 left" in line
    assert "\x1b" not in line and "run the build again" not in line
