from __future__ import annotations

from io import StringIO

from rich.console import Console

from magpie.report.sample_progress import shown_progress


def test_a_terminal_shows_a_bar_and_keeps_nothing_of_it() -> None:
    console = Console(file=StringIO(), width=120, force_terminal=True, color_system=None)
    with shown_progress(console) as on_progress:
        on_progress("loading [red]\x1b[2Jdemo", 0, 0)
        for done in range(5):
            on_progress("sampling", done, 4)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "4/4" in shown and "sampling" in shown
    assert "\x1b[2J" not in shown


def test_elsewhere_nothing_is_said_of_what_is_soon_done() -> None:
    console = Console(file=StringIO(), width=120)
    with shown_progress(console) as on_progress:
        on_progress("sampling", 1, 4)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
