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
