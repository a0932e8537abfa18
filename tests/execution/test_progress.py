"""What a person sees is what was said, brackets and all."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from builds import small_recipe
from rich.console import Console

from magpie.execution.base import Completed
from magpie.execution.log import Log
from magpie.execution.progress import Progress
from magpie.plan import make_plan
from magpie.runs.run import LOG, Run
from magpie.storage import MemoryStorage

STEPS = make_plan(small_recipe()).steps
FOLDER = "runs/[/b] [bold]mine :smile:"


@pytest.mark.parametrize("terminal", [False, True])
def test_brackets_in_what_is_said_are_shown(terminal: bool) -> None:
    said = StringIO()
    console = Console(file=said, force_terminal=terminal, width=120, color_system=None)
    with Progress(STEPS, 8, log=Log(None), console=console) as progress:
        progress.note(f"{FOLDER} was put away")
        progress.doing(f"loading {FOLDER}")
    assert f"note {FOLDER} was put away" in said.getvalue()
    assert f"loading {FOLDER}" in said.getvalue()


def test_a_step_that_sees_every_row_at_once_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000, 10_000, 100))
    monkeypatch.setattr("magpie.execution.progress.time.monotonic", lambda: float(next(clock)))
    said = StringIO()
    console = Console(file=said, width=120, color_system=None)
    with Progress(STEPS, 8, log=Log(None), console=console) as progress:
        for done in (0, 10, 40):
            progress.advanced("dedup", "comparing all pairs", done, 40)
    lines = said.getvalue().splitlines()
    assert lines[0] == "dedup: comparing all pairs, 0%"
    assert lines[1].startswith("dedup: comparing all pairs, 25%, 0:")
    assert lines[1].endswith(" left")
    assert lines[2] == "dedup: comparing all pairs, 100%"


def test_what_the_prefix_cache_gave_is_logged_where_the_engine_says() -> None:
    run = Run(MemoryStorage(), small_recipe(), STEPS)
    with Progress(run.steps, 8, log=Log(run), console=None) as progress:
        progress.completed(Completed("instruct", 5, 10))
        progress.completed(Completed("tag", 5, 100, 0))
        progress.completed(Completed("tag", 5, 100, 96))
        progress.log_prefix_cache(["instruct", "tag"])
    (event,) = map(json.loads, run.storage.read(LOG).splitlines())
    del event["time"]
    assert event == {
        "event": "prefix cache", "step": "tag", "prompt_tokens": 200, "cached_tokens": 96, "hit_rate": 0.48,
    }  # fmt: skip


def test_steps_are_counted_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards that were there already count as rows, and not as what this build has made."""
    clock = iter(range(100, 10_000, 10))
    monkeypatch.setattr("magpie.execution.progress.time.monotonic", lambda: float(next(clock)))
    with Progress(STEPS, 96, log=Log(None)) as progress:
        progress.found("instruct", 32, 3)
        progress.began("instruct")
        progress.completed(Completed("instruct", 7))
        progress.committed("instruct", 2, 16, 1)
    count = progress.counts["instruct"]
    assert (count.rows, count.fresh, count.rejected, count.answered, count.tokens) == (48, 16, 4, 1, 7)
    assert count.needs_engine and not progress.counts["dedup"].needs_engine
    assert count.started is not None and count.seconds == count.last - count.started > 0


def test_rows_count_before_their_shard_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000, 10_000))
    monkeypatch.setattr("magpie.execution.progress.time.monotonic", lambda: float(next(clock)))
    said = StringIO()
    console = Console(file=said, width=120, color_system=None)
    with Progress(STEPS, 100, log=Log(None)) as progress:

        def shown() -> str:
            console.print(progress._render())
            line = [line for line in said.getvalue().splitlines() if line.strip().startswith("instruct")][-1]
            return " ".join(line.split())

        progress.began("instruct", 0)
        assert " 0/100 " in shown()
        for _ in range(20):
            progress.completed(Completed("instruct", 5, shard=0))
        assert " 20/100 " in shown() and ":" in shown().split()[-1]  # a rate, and the time that is left
        progress.began("instruct", 0)  # the shard is begun again: what came back counts no more
        assert " 0/100 " in shown()
        for _ in range(100):
            progress.completed(Completed("instruct", 5, shard=0))
        assert " 99/100 " in shown()  # all of them only when the shards are on disk
        progress.committed("instruct", 0, 50, 0)
        assert " 50/100 " in shown()
        for _ in range(20):  # a row took two completions
            progress.completed(Completed("instruct", 5, shard=1))
        assert " 60/100 " in shown()
        progress.committed("instruct", 1, 50, 0)
        assert " 100/100 " in shown()


def test_a_row_is_done_when_all_that_is_asked_of_it_is_answered() -> None:
    with Progress(STEPS, 8, log=Log(None), console=None) as progress:
        for _ in range(6):
            progress.completed(Completed("tag", 5, 100, shard=0))
        assert progress.counts["tag"].under_way == 2.0  # three questions a row


def test_a_shard_that_stands_as_a_whole_says_nothing_of_how_long_the_others_take() -> None:
    said = StringIO()
    console = Console(file=said, width=120, color_system=None)
    with Progress(STEPS, 32, log=Log(None), console=console) as progress:
        progress.took_over("respond", 0, 5)  # eleven are out
        progress.committed("respond", 0, 16, 0)
        assert progress.counts["respond"].fresh == 0
        progress.took_over("respond", 1, 5)
        progress.completed(Completed("respond", 5, 100, shard=1))
        progress.committed("respond", 1, 16, 0)
        assert progress.counts["respond"].fresh == 11


def test_no_key_comes_into_the_log() -> None:
    run = Run(MemoryStorage(), small_recipe(), STEPS)
    Log(run).write("stopped", why="ServerError: http://me:pa@ss@host/v1 is not there")
    assert b"pa@ss" not in run.storage.read(LOG) and json.loads(run.storage.read(LOG))["event"] == "stopped"
