"""A plan, printed: names that look like markup are printed as they are."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from builds import small_recipe
from rich.console import Console

from magpie.plan import DryRun, make_plan
from magpie.report.dry_run import print_plan

FOLDER = "runs/[/b] [bold]mine"


def test_brackets_in_a_plan_are_shown() -> None:
    said = StringIO()
    models = {
        "generator": {"model": "[/b]/[red]", "engine": "scripted"},
        "judge": "generator",
        "embedder": "generator",
    }
    rules = [{"name": "[/b] short", "where": "nosuch > 3", "when_present": True}]
    recipe = small_recipe(models=models, filter={"name": "short", "rules": rules})
    print_plan(DryRun(make_plan(recipe), Path(FOLDER)), Console(file=said, width=120))
    for text in (f"rows into {FOLDER}", "[/b]/[red]", "filter short", "such column: [/b] short"):
        assert text in said.getvalue()
