"""A run that grows: rows that stand stay, nothing is made twice, and the whole is what it would be at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from builds import Opener, shard_path, small_recipe, small_self_instruct
from standing import Asked, contents, same_as

from magpie.build import build
from magpie.errors import EngineError, RecipeChangedError
from magpie.execution.local import LocalExecutor
from magpie.recipe import Recipe
from magpie.runs.change import rows_out_anew
from magpie.runs.earlier import REPLACED
from magpie.runs.run import Run
from magpie.runs.verify import verify
from magpie.storage.sealed import inspect_shard

INSTRUCTION = 200  # tokens of a first instruction, by which a request for one is told from others


def rows(count: int, **changes: Any) -> Recipe:
    mix = {"mix": [{"temperature": 1.0}], "max_tokens": INSTRUCTION}
    return small_recipe(rows=count, dedup={"threshold": 0.05}, instruct=mix, **changes)


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(rows(100), tmp_path_factory.mktemp("at-once") / "run")


def test_a_run_that_grows_is_what_it_would_be_at_once_and_nothing_is_made_twice(
    at_once: Run, tmp_path: Path
) -> None:
    asked, alone = Asked(), Asked()
    # The last shard of 26 rows has 10, that of 57 has 9, and of 100 it has 4.
    texts: dict[str, str] = {}
    for count in (26, 57, 100):
        run = build(rows(count), tmp_path / "run", executor=asked.executor)
        made = run.table(["instruction"])
        now = dict(zip(made["id"].to_pylist(), made["instruction"].to_pylist(), strict=True))
        assert texts.items() <= now.items() and len(now) == count
        texts = now
    same_as(run, at_once)
    assert max(asked.values()) == 1
    build(rows(100), tmp_path / "alone", executor=alone.executor)
    # Answers to rows that only the larger whole calls repeats are made, and then left out.
    assert set(alone) <= set(asked)
    instructions = [key for key in asked if key[2] == INSTRUCTION]
    assert len(instructions) == 100


def test_shards_that_nothing_concerns_stay_the_files_they_are(tmp_path: Path) -> None:
    run = build(rows(32), tmp_path / "run")
    before = {path: path.stat().st_ino for path in run.folder.glob("steps/0[1-3]*/*.parquet")}
    grown = build(rows(64), tmp_path / "run")
    assert {path: path.stat().st_ino for path in before} == before
    assert len(list(grown.folder.glob("steps/01-instruct/*"))) == 4
    assert verify(grown) == []


def test_an_unfinished_run_grows_too(at_once: Run, tmp_path: Path) -> None:
    build(rows(40), tmp_path / "run", stop_after="embed")
    same_as(build(rows(100), tmp_path / "run"), at_once)


@pytest.mark.parametrize("dies_at", [1, 60, 130])
def test_a_growth_that_dies_goes_on(at_once: Run, tmp_path: Path, dies_at: int) -> None:
    build(rows(40), tmp_path / "run")
    for requests in (dies_at, 20):
        with pytest.raises(EngineError):
            build(rows(100), tmp_path / "run", executor=LocalExecutor(engines=Opener(dies_at=requests)))
    same_as(build(rows(100), tmp_path / "run"), at_once)


def test_a_run_does_not_shrink(tmp_path: Path) -> None:
    build(rows(40), tmp_path / "run")
    with pytest.raises(RecipeChangedError, match=r"has 40 rows, and a run can only grow.*--rows 40"):
        build(rows(30), tmp_path / "run")
    with pytest.raises(RecipeChangedError, match="shard_rows"):
        build(rows(80, shard_rows=8), tmp_path / "run", yes=True)


def test_what_the_larger_whole_rejects_anew_is_said(tmp_path: Path) -> None:
    longest = {"threshold": 0.05, "keep": "longest"}
    few = build(small_recipe(rows=32, dedup=longest), tmp_path / "few")
    run = build(small_recipe(rows=32, dedup=longest), tmp_path / "run")
    run = build(small_recipe(rows=96, dedup=longest), tmp_path / "run", keep_old=True)
    reasons = rows_out_anew(run, few)
    before, now = (each.table([]).slice(0, 32)["rejected"].to_pylist() for each in (few, run))
    lost = Counter(b for a, b in zip(before, now, strict=True) if a is None and b is not None)
    assert reasons == dict(lost.most_common())
    log = (run.folder / "log.jsonl").read_text()
    assert ('"event": "out anew"' in log) == bool(reasons)
    assert contents(Run.open(run.folder / REPLACED / "0001")) == contents(few)


def test_the_other_method_grows_by_whole_rounds_and_makes_its_last_one_again(tmp_path: Path) -> None:
    build(small_self_instruct(rows=50), tmp_path / "run")
    grown = build(small_self_instruct(rows=90), tmp_path / "run")
    same_as(grown, build(small_self_instruct(rows=90), tmp_path / "alone"))


def test_whole_shards_of_an_earlier_smaller_run_have_its_metadata(tmp_path: Path) -> None:
    build(rows(32), tmp_path / "run")
    run = build(rows(64), tmp_path / "run")
    stamp = inspect_shard(run.storage, run.shard_name(run.step("instruct"), 0)).stamp
    assert stamp.total == 32
    for name in ("recipe.yaml", "fingerprints.json"):
        (run.folder / name).unlink()
    assert Run.open(run.folder).recipe == run.recipe  # and not that of the first shards
    path = shard_path(run, "instruct", 1)
    path.write_bytes(path.read_bytes()[:-9])
    build(rows(64), tmp_path / "run")
    assert verify(Run.open(run.folder)) == []
