"""Rows asked for until enough are kept, in all and of each kind."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from builds import Opener, small_recipe
from standing import Asked, contents

from magpie.build import build
from magpie.errors import EngineError, RecipeError, ShortError
from magpie.execution.local import LocalExecutor
from magpie.figures.kept_cells import kept_cells
from magpie.recipe import Recipe
from magpie.runs.earlier import REPLACED
from magpie.runs.record import recorded_recipe
from magpie.runs.run import LOG, Run
from magpie.runs.verify import verify

SHARD = 40
HALF = [{"name": "half", "where": "length(instruction) % 2 = 0"}]
STEER = {
    "prompts": {"user": "A user who writes {language} about {topic}."},
    "variables": {
        "language": ["en", "de"],
        "topic": [{"id": "cars", "text": "cars", "share": 8}, {"id": "tea", "text": "tea", "share": 1}],
    },
}


def recipe(**changes: Any) -> Recipe:
    usual = {"shard_rows": SHARD, "filter": {"name": "f", "rules": HALF}, "extend": None, "tag": None}
    return small_recipe(**{**usual, **changes})


def test_at_least_so_many_rows_are_kept_and_a_shard_more_at_most(tmp_path: Path) -> None:
    asked = Asked()
    run = build(recipe(), tmp_path / "run", until_kept=100, executor=asked.executor)
    kept = len(run.dataset())
    assert 100 <= kept <= 100 + SHARD and run.recipe.rows < 400
    assert max(asked.values()) == 1 and verify(run) == [] and run.storage.names(REPLACED) == []
    assert '"event": "until"' in (run.folder / LOG).read_text()
    # It is what so many rows are at once.
    at_once = build(recipe(rows=run.recipe.rows), tmp_path / "at-once")
    assert contents(run) == contents(at_once)
    # The same command again has nothing to do, and more rows go on from there.
    again = build(recipe(), tmp_path / "run", until_kept=100)
    assert again.recipe.rows == run.recipe.rows
    more = build(recipe(), tmp_path / "run", until_kept=130, executor=asked.executor)
    assert 130 <= len(more.dataset()) <= 130 + SHARD and max(asked.values()) == 1


def test_one_that_is_lost_half_way_goes_on(tmp_path: Path) -> None:
    whole = build(recipe(), tmp_path / "whole", until_kept=60)
    for dies_at in (30, 200, 10, 200):
        with pytest.raises(EngineError):
            executor = LocalExecutor(engines=Opener(dies_at=dies_at))
            build(recipe(), tmp_path / "run", until_kept=60, executor=executor)
            raise EngineError("it was done before")
    run = build(recipe(), tmp_path / "run", until_kept=60)
    assert contents(run) == contents(whole) and verify(run) == []


def test_at_the_limit_it_ends_with_the_reason_unless_fewer_will_do(tmp_path: Path) -> None:
    with pytest.raises(ShortError, match=r"of 100 rows.*limit of 64 rows.*--accept-short"):
        build(recipe(), tmp_path / "run", until_kept=100, rows=64)
    run = build(recipe(), tmp_path / "run", until_kept=100, rows=64, accept_short=True)
    assert run.recipe.rows == 64 and 0 < len(run.dataset()) < 100 and verify(run) == []


def test_short_cells_are_refilled_by_the_prompts_that_feed_them(tmp_path: Path) -> None:
    asked = Asked()
    cells = recipe(steer=STEER, until={"kept": 160, "by": ["language", "topic"], "most": 1000})
    run = build(cells, tmp_path / "run", executor=asked.executor)
    kept = kept_cells(run)
    assert kept.kept >= 160
    # Unsteered, eight of nine rows are about cars.
    assert len(kept.cells) == 4 and all(40 <= count <= 40 + SHARD for count in kept.cells.values())
    assert max(asked.values()) == 1 and verify(run) == []
    assert run.recipe.steer is not None and run.recipe.steer.refills
    # Its recipe makes the same rows at once.
    recorded = Recipe(**recorded_recipe(run.storage) or {})
    at_once = build(recorded, tmp_path / "at-once")
    assert contents(run) == contents(at_once)
    # A smaller wish is met already, and a larger one goes on with what was steered.
    assert build(cells, tmp_path / "run", until_kept=100).recipe.rows == recorded.rows
    more = build(cells, tmp_path / "run", until_kept=200, executor=asked.executor)
    assert more.recipe.steer is not None and max(asked.values()) == 1
    assert more.recipe.steer.refills[: len(run.recipe.steer.refills)] == run.recipe.steer.refills


def test_a_share_of_each_cell_is_met(tmp_path: Path) -> None:
    sizes = {("en", "cars"): 0.5, ("en", "tea"): 0.3, ("de", "cars"): 0.1, ("de", "tea"): 0.1}
    until = {
        "kept": 200, "most": 1500, "by": ["language", "steer_topic"],
        "cells": [{"of": list(cell), "share": share} for cell, share in sizes.items()],
    }  # fmt: skip
    run = build(recipe(steer=STEER, until=until), tmp_path / "run")
    kept = kept_cells(run)
    for cell, share in sizes.items():
        assert share * 200 <= kept.cells[cell] <= share * 200 + SHARD, (cell, kept.cells)


def test_an_impossible_cell_ends_at_the_limit_with_the_reason(tmp_path: Path) -> None:
    until = {
        "kept": 20, "most": 120, "by": ["language", "topic"],
        "cells": [{"of": ["en", "cars"], "count": 5}, {"of": ["fr", "cars"], "count": 5}],
    }  # fmt: skip
    with pytest.raises(
        ShortError, match=r"short of fr/cars 0 of 5; not one row came to fr/cars; the limit of 120"
    ):
        build(recipe(steer=STEER, until=until), tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert run.recipe.rows == 120 and verify(run) == []


def test_what_until_counts_is_there_and_the_build_is_not_stopped_before(tmp_path: Path) -> None:
    until = {"kept": 9, "by": ["no_such"], "cells": [{"of": ["a"], "count": 1}]}
    before = signal.getsignal(signal.SIGTERM)  # Ray, begun by another test in this process, sets its own
    with pytest.raises(RecipeError, match="neither a column of the run nor a variable"):
        build(recipe(until=until), tmp_path / "run")
    with pytest.raises(RecipeError, match="leave out --stop-after"):
        build(recipe(), tmp_path / "run", until_kept=9, stop_after="clean")
    assert not (tmp_path / "run").exists() and signal.getsignal(signal.SIGTERM) == before
