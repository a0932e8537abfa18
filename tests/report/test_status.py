"""Names that look like markup are printed as they are."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from builds import small_recipe
from rich.console import Console

from magpie.report.plan import print_plan
from magpie.report.status import print_status
from magpie.runs.plan import make_plan
from magpie.runs.status import Status, StepStatus

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


def test_brackets_in_a_plan_are_shown() -> None:
    said = StringIO()
    models = {
        "generator": {"model": "[/b]/[red]", "engine": "scripted"},
        "judge": "generator",
        "embedder": "generator",
    }
    rules = [{"name": "[/b] short", "where": "nosuch > 3", "when_present": True}]
    recipe = small_recipe(models=models, filter={"name": "[/i]", "rules": rules})
    print_plan(make_plan(recipe), Path(FOLDER), Console(file=said, width=120))
    for text in (f"rows into {FOLDER}", "[/b]/[red]", "filter [/i]", "such column: [/b] short"):
        assert text in said.getvalue()
