"""`kill -9` of a build that makes a run grow: it goes on, and what is replaced is there until the new one stands."""

from __future__ import annotations

import random
from pathlib import Path

from builds import small_recipe, tree
from dying import dying
from standing import same_as

from magpie.build import build
from magpie.runs.earlier import REPLACED
from magpie.runs.record import recipe_text

KILLS = 6


def test_a_growth_that_is_killed_goes_on(tmp_path: Path) -> None:
    few = small_recipe(rows=20, extend=None, tag=None, filter=None)
    more = few.model_copy(update={"rows": 40})
    alone = build(more, tmp_path / "alone", report=False)
    recipe = tmp_path / "more.yaml"
    recipe.write_text(recipe_text(more))
    draw = random.Random(7)
    with dying("build", recipe, "--out", tmp_path / "run", "--no-report") as command:
        build(few, tmp_path / "run", report=False)
        number = command.run()  # imports modules, too: later lives are shorter
        for part in range(KILLS):
            again = tmp_path / "run"
            for path in sorted(again.rglob("*"), reverse=True):
                path.unlink() if path.is_file() or path.is_symlink() else path.rmdir()
            build(few, again, report=False)
            old = tree(again)
            moment = 1 + int((part + draw.random()) * number * 0.8 / KILLS)
            command.kill(moment)
            # What is replaced is there until the new one stands, under one name or the other.
            names = {name for name in old if name.startswith("steps/")}
            kept = {str(path.relative_to(again)) for path in again.rglob("*.parquet")}
            assert all(name in kept or f"{REPLACED}0001/{name}" in kept for name in names), moment
            same_as(build(more, again, report=False), alone)
