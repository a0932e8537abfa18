"""What a person sees is what was said, brackets and all."""

from __future__ import annotations

from io import StringIO

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


def test_a_step_that_sees_every_row_at_once_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000, 10_000, 100))
    monkeypatch.setattr("magpie.runs.progress.time.monotonic", lambda: float(next(clock)))
    said = StringIO()
    console = Console(file=said, width=120, color_system=None)
    with Progress([("dedup", False)], 8, log=Log(None), console=console) as progress:
        for done in (0, 10, 40):
            progress.moved("dedup", "comparing all pairs", done, 40)
    lines = said.getvalue().splitlines()
    assert lines[0] == "dedup: comparing all pairs, 0%"
    assert lines[1].startswith("dedup: comparing all pairs, 25%, 0:")
    assert lines[1].endswith(" left")
    assert lines[2] == "dedup: comparing all pairs, 100%"
