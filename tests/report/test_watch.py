"""The status of a run for as long as a build is at work, and the rows that a build shows as they come."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from builds import scripted, small_recipe
from rich.console import Console

from magpie.build import build
from magpie.execution.counts import StepCount
from magpie.execution.log import Log
from magpie.execution.peek import Peek
from magpie.execution.progress import Progress
from magpie.execution.progress_table import running_funnel
from magpie.plan import make_plan
from magpie.report.watch import watch
from magpie.runs.run import PROGRESS
from magpie.terminal import new_console


def screen(*, terminal: bool = False) -> Console:
    return new_console(file=StringIO(), width=160, force_terminal=terminal, color_system=None)


def said(console: Console) -> str:
    assert isinstance(console.file, StringIO) or hasattr(console.file, "getvalue")
    return str(console.file.getvalue())


@pytest.mark.parametrize("terminal", [False, True])
def test_a_status_is_shown_anew_until_the_build_has_ended(tmp_path: Path, terminal: bool) -> None:
    run = build(small_recipe(), tmp_path / "run")
    console = screen(terminal=terminal)
    waits: list[float] = []
    # This process holds the run as a build does, and lets go of it after two looks.
    lock = run.storage.lock()
    lock.__enter__()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            lock.__exit__(None, None, None)

    assert watch(run, console, every=3, sleep=sleep).running is None
    assert len(waits) == 2 and min(waits) >= 3
    assert "running" in said(console) and "finished" in said(console)


def test_without_a_build_the_status_is_shown_once(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    console = screen()
    watch(run, console, sleep=lambda _: pytest.fail("it waits for nothing"))
    assert said(console).count("finished") == 1


def test_the_first_rows_are_printed_as_they_come(tmp_path: Path) -> None:
    console = screen()
    run = build(small_recipe(models=scripted(failure_rate=0.1)), tmp_path / "run", peek=True, console=console)
    printed = said(console)
    rows = {row["id"]: row for row in run.table(["instruction", "response"]).to_pylist()}
    seen = [row_id for row_id in rows if f"{row_id}  " in printed]
    assert 5 <= len(seen) <= 10  # five instructions, and five with their answers
    for row_id in seen:
        assert rows[row_id]["instruction"][:40] in printed
    answered = [
        row_id for row_id in seen if rows[row_id]["response"] and rows[row_id]["response"][:40] in printed
    ]
    assert len(answered) == 5
    assert not run.storage.exists(PROGRESS)


def test_a_shard_that_is_gone_is_not_peeked_at(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    console = screen()
    events: list[Any] = []
    from magpie.execution.base import Committed

    step = run.step_adding("response")
    assert step is not None
    committed: Any = Committed(step.name, step.number, 0, 16, 0, None)  # type: ignore[arg-type]
    run.storage.delete(run.shard_name(step, 0))
    with Peek(run, console) as peek:
        peek.beside(events.append)(committed)
    assert events == [committed] and said(console) == ""


def test_the_funnel_is_what_is_left_after_each_step() -> None:
    counts = [
        StepCount("instruct", True, rows=96, rejected=0),
        StepCount("clean", False, rows=96, rejected=24),
    ]
    assert running_funnel(counts[:1]) is None
    later = StepCount("respond", True, rows=48, rejected=12)
    console = screen()
    table = running_funnel([*counts, later])
    assert table is not None
    console.print(table)
    lines = said(console).splitlines()
    assert "left after clean" in lines[0] and "75%" in lines[0] and "about 72 of 96" in lines[0]
    assert "left after respond" in lines[1] and "50%" in lines[1] and "about 24 of 48" in lines[1]
    assert lines[0].count("━") == 20


def test_what_is_planned_stands_beside_what_is_measured() -> None:
    steps = make_plan(small_recipe()).steps
    console = screen(terminal=True)
    with Progress(steps, 96, log=Log(None), console=console) as progress:
        progress.planned = {"instruct": 12.5}
        progress.began("instruct")
        progress.committed("instruct", 0, 16, 4)
        progress.doing("instruct")
    printed = said(console)
    assert "planned" in printed and "≤ 12.5" in printed and "left after instruct" in printed
