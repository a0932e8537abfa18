"""Builds that keep clear of other datasets: an earlier run, and what a benchmark asks."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.compute as pc
import pytest
from builds import small_recipe

from magpie.build import build
from magpie.errors import RecipeChangedError, RecipeError
from magpie.figures.status import status
from magpie.runs.run import LOG
from magpie.runs.verify import verify


def test_rows_of_an_earlier_run_are_out_and_name_it(tmp_path: Path) -> None:
    earlier = build(small_recipe(), tmp_path / "earlier")
    later = build(small_recipe(seed=43, rows=200, dedup={"against": str(earlier.folder)}), tmp_path / "later")
    again = build(small_recipe(dedup={"against": [str(earlier.folder)]}), tmp_path / "again")
    assert verify(later) == []
    known = set(earlier.dataset()["id"])
    table = again.table(["duplicate_of"])
    named = set(table["duplicate_of"].drop_null().to_pylist()) & known
    assert named == known
    reason = f"dedup: repeat of {earlier.folder}"
    assert pc.sum(pc.equal(table["rejected"], reason)).as_py() >= len(known)
    assert len(again.dataset()) == 0 or not known & set(again.dataset()["id"])
    assert "duplicate_of" not in later.dataset().column_names


def test_a_benchmark_question_is_out_and_the_words_are_shown(tmp_path: Path) -> None:
    clear = build(small_recipe(), tmp_path / "clear")
    asked = next(text for text in clear.dataset()["instruction"] if len(text.split()) > 5)
    exam = tmp_path / "exam.jsonl"
    exam.write_text(json.dumps({"question": f"Now tell me: {asked.upper()}!"}) + "\n")
    recipe = small_recipe(decontaminate={"files": str(exam), "ngram": 6})
    run = build(recipe, tmp_path / "run")
    assert verify(run) == []
    table = run.table(["instruction", "contaminated_by"])
    hits = table.filter(pc.is_valid(table["contaminated_by"]))
    assert asked in hits["instruction"].to_pylist()
    assert hits["contaminated_by"][0].as_py().startswith(f"{exam}:1: ")
    exam.write_text(json.dumps({"question": "Another question altogether, and a long one."}) + "\n")
    with pytest.raises(RecipeChangedError, match=r"decontaminate\.settings\.files"):
        build(recipe, tmp_path / "run")


def test_a_dataset_that_is_not_there_stops_the_build_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"there is no .*nowhere.jsonl; give"):
        build(small_recipe(dedup={"against": str(tmp_path / "nowhere.jsonl")}), tmp_path / "run")
    assert not list((tmp_path / "run").glob("steps/*/*.parquet"))


def test_an_approximate_search_says_what_it_found_in_the_log(tmp_path: Path) -> None:
    run = build(small_recipe(dedup={"nearest": "approximate"}), tmp_path / "run")
    log = (run.folder / LOG).read_text()
    assert "nearest recall" in log
    assert verify(run) == []


def test_other_datasets_within_a_distance_of_nothing_are_refused() -> None:
    with pytest.raises(RecipeError, match="`against` finds nothing within a threshold of 0; set `threshold`"):
        small_recipe(dedup={"threshold": 0, "against": "exam.jsonl"})


def test_a_later_question_of_a_benchmark_is_looked_at_and_the_funnel_names_the_benchmark(
    tmp_path: Path,
) -> None:
    clear = build(small_recipe(), tmp_path / "clear")
    asked = next(text for text in clear.dataset()["instruction"] if len(text.split()) > 5)
    (tmp_path / "bench.jsonl").write_text(json.dumps({"turns": ["Nothing of the kind.", f"Now: {asked}"]}))
    (tmp_path / "other.csv").write_text("number,task\n1,Something else altogether\n")
    files = [str(tmp_path / "bench.jsonl"), {"path": str(tmp_path / "other.csv"), "column": "task"}]
    run = build(small_recipe(decontaminate={"files": files, "ngram": 6}), tmp_path / "run")
    table = run.table(["instruction", "contaminated_by"])
    hits = table.filter(pc.is_valid(table["contaminated_by"]))
    assert asked in hits["instruction"].to_pylist()
    assert hits["contaminated_by"][0].as_py().startswith(f"{tmp_path / 'bench.jsonl'}:1: ")
    (step,) = (step for step in status(run).steps if step.name.endswith("decontaminate"))
    assert step.outcomes is not None and step.outcomes[f"in {tmp_path / 'bench.jsonl'}"] == len(hits)
