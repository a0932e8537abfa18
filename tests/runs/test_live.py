"""A build at work says so: which process, since when, and how far it is, rows in hand counted."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from builds import small_recipe

from magpie.build import build
from magpie.execution.base import Completed
from magpie.execution.log import Log
from magpie.execution.progress import Progress
from magpie.figures.status import status
from magpie.runs.live import running
from magpie.runs.run import PROGRESS, Run


def test_a_build_at_work_is_seen_and_one_that_has_ended_is_not(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    assert running(run) is None and status(run).running is None
    assert not run.storage.exists(PROGRESS)
    with run.storage.lock():
        other = Run.open(tmp_path / "run")
        at_work = running(other)
        assert at_work is not None
        assert (at_work.pid, at_work.steps) == (os.getpid(), ())
        assert 0 <= time.time() - at_work.since < 600
        with Progress(run.steps, 96, log=Log(run)) as progress:
            progress.began("instruct")
            for number in range(20):
                progress.completed(Completed("instruct", 5, shard=number // 16))
            progress.committed("instruct", 0, 16, 0)
            progress.doing("instruct, clean")
            said = status(other).running
            assert said is not None
            assert said.doing == "instruct, clean"
            (step,) = said.steps
            assert (step.name, step.rows, step.rows_in_all, step.in_hand) == ("instruct", 16, 96, 4)
            assert step.rows_per_second is not None and step.seconds_left is not None
            json.dumps(status(other).to_json())
    assert running(other) is None


def test_what_a_dead_build_said_is_not_taken_for_the_one_at_work(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    run.storage.note(PROGRESS, json.dumps({"pid": 1, "updated": 1.0, "doing": "dead", "steps": []}))
    with run.storage.lock():
        said = running(run)
        assert said is not None and said.doing == ""
    for text in ("", "[]", "{", f'{{"pid": {os.getpid()}, "steps": 3}}'):
        run.storage.note(PROGRESS, text)
        with run.storage.lock():
            assert running(run) is not None
