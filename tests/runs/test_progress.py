"""What a person sees is what was said, brackets and all."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from magpie.runs.progress import Log, Progress

FOLDER = "runs/[/b] [bold]mine :smile:"


@pytest.mark.parametrize("terminal", [False, True])
def test_brackets_in_what_is_said_are_shown(terminal: bool) -> None:
    said = StringIO()
    console = Console(file=said, force_terminal=terminal, width=120, color_system=None)
    with Progress([("instruct", True)], 8, log=Log(None), console=console) as progress:
        progress.note(f"{FOLDER} was put away")
        progress.doing(f"loading {FOLDER}")
    assert f"note {FOLDER} was put away" in said.getvalue()
    assert f"loading {FOLDER}" in said.getvalue()


def test_what_the_prefix_cache_gave_is_logged_where_the_engine_says(tmp_path: Path) -> None:
    steps = [("instruct", True), ("tag", True)]
    with Progress(steps, 8, log=Log(tmp_path / "log.jsonl"), console=None) as progress:
        progress.completed("instruct", 5, prompt=10, cached=None)
        progress.completed("tag", 5, prompt=100, cached=0)
        progress.completed("tag", 5, prompt=100, cached=96)
        progress.log_prefix_cache(["instruct", "tag"])
    (event,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    del event["time"]
    assert event == {
        "event": "prefix cache", "step": "tag", "prompt_tokens": 200, "cached_tokens": 96, "hit_rate": 0.48,
    }  # fmt: skip
