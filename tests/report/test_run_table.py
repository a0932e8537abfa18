"""Names that look like markup are printed as they are, and what more rows would give is one line."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from builds import small_recipe
from rich.console import Console

from magpie.build import build
from magpie.figures.saturation import Next, Saturation
from magpie.figures.status import Status, StepStatus, status
from magpie.report.run_table import print_status

FOLDER = "runs/[/b] [bold]mine"


def test_brackets_in_a_run_s_folder_and_reasons_are_shown() -> None:
    said = StringIO()
    step = StepStatus("filter", 1, 1, 4, 2, {"filter: [/b] short": 2}, None)
    found = Status(FOLDER, "small", 4, True, 2, (step,), ("[red] rule",), (f"{FOLDER}/steps",))
    print_status(found, Console(file=said, width=120))
    for text in (
        f"{FOLDER}: finished",
        "filter: [/b] short",
        "left out: [red] rule",
        f"read: {FOLDER}/steps",
    ):
        assert text in said.getvalue()


def test_how_many_of_the_next_rows_would_be_new_is_one_line() -> None:
    said = StringIO()
    curve = Saturation(4000, 3990, (), Next(1000, 986.6, 12.4), 1.0, (), ())
    print_status(Status("run", "small", 4, True, 2, (), (), (), curve), Console(file=said, width=40))
    assert "987 of the next 1,000 would be new (± 12)\n" in said.getvalue()


def test_a_run_without_a_curve_has_no_such_line(tmp_path: Path) -> None:
    said = StringIO()
    found = status(build(small_recipe(), tmp_path / "run", stop_after="clean"))
    print_status(found, Console(file=said, width=120))
    assert "would be new" not in said.getvalue()
    assert found.to_json()["saturation"] is None
    assert "not every row has come to dedup" in found.to_json()["no_saturation"]
