"""`report.json`: there when a run is finished, equal for equal runs, and of no use to anything that builds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from builds import RULES, scripted, shard_path, small_recipe, tree

from magpie.build import build
from magpie.figures.funnel import filter_funnel
from magpie.figures.status import Status, status
from magpie.figures.summary import summary, write_summary
from magpie.runs.run import SUMMARY, Run
from magpie.runs.verify import verify
from magpie.steps.filter import funnel


def report_path(run: Run) -> Path:
    return run.folder / SUMMARY


def read(run: Run) -> dict[str, Any]:
    return dict(json.loads(report_path(run).read_text(encoding="utf-8")))


def test_a_finished_run_has_a_report(tmp_path: Path) -> None:
    run = build(small_recipe(models=scripted(repeat_rate=0.3)), tmp_path / "run")
    found, figures = status(run), read(run)
    assert (figures["format"], figures["recipe"], figures["rows"]) == (1, "small", 96)
    assert figures["kept"] == found.kept == run.dataset().num_rows
    assert [step["name"] for step in figures["steps"]] == [step.name for step in found.steps]
    assert figures["steps"][0]["tokens"] > 0
    assert figures["saturation"] == json.loads(json.dumps(found.to_json()["saturation"]))
    assert sum(block["new"] for block in figures["saturation"]["curve"]) == figures["saturation"]["new"]
    assert str(tmp_path) not in report_path(run).read_text(encoding="utf-8")
    assert json.loads(json.dumps(summary(run, found))) == figures
    before = report_path(run).read_bytes()
    write_summary(run, found)
    assert report_path(run).read_bytes() == before


@pytest.mark.parametrize("last", [None, "dedup"])
def test_a_build_hands_on_the_status_that_it_has_counted(tmp_path: Path, last: str | None) -> None:
    counted: list[Status] = []
    for _ in ("build", "build again"):
        run = build(small_recipe(), tmp_path / "run", stop_after=last, on_end=counted.append)
        # While it was counted the build was still at work. That is over now, and what was written since took its time.
        assert counted.pop() == status(run)
    assert not counted
    assert status(run).running is None


def test_equal_runs_have_equal_reports(tmp_path: Path) -> None:
    one, other = (build(small_recipe(), tmp_path / name) for name in ("one", "other"))
    assert report_path(one).read_bytes() == report_path(other).read_bytes()


def test_a_run_without_dedup_says_why_it_has_no_curve(tmp_path: Path) -> None:
    run = build(small_recipe(embed=None, dedup=None, filter=None), tmp_path / "run")
    assert read(run)["saturation"] is None
    assert read(run)["no_saturation"] == "no step of the recipe says which rows are repeats"
    assert read(run)["funnel"] is None


@pytest.mark.parametrize("answered", ["kept", "all"])
def test_the_funnel_is_that_of_the_filter_with_and_without_push_down(tmp_path: Path, answered: str) -> None:
    part = {
        "name": "small",
        "rules": RULES,
        "quotas": {"by": "difficulty", "each": 9},
        "top": {"by": "response_length", "n": 10},
    }
    run = build(small_recipe(filter=part, respond={"rows": answered}), tmp_path / "run")
    early = [name for name in run.schema.names if not name.startswith("response")]
    rows = pa.table({"rejected": run.table([])["rejected"]})
    assert run.recipe.filter is not None
    expected = funnel(run.recipe.filter, rows, early)
    assert filter_funnel(run, status(run)) == expected
    assert [line["name"] for line in read(run)["funnel"]] == [line.name for line in expected]
    assert {line.name for line in expected} >= {"quota", "top"}
    assert expected[-1].left == read(run)["kept"] == 10


def test_the_report_is_there_exactly_while_the_run_is_finished(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run", stop_after="dedup")
    assert not report_path(run).exists()
    build(small_recipe(), tmp_path / "run")
    before = report_path(run).read_bytes()
    shard_path(run, "tag", 1).unlink()
    build(small_recipe(), tmp_path / "run", stop_after="tag")
    assert not report_path(run).exists()
    build(small_recipe(), tmp_path / "run")
    assert report_path(run).read_bytes() == before


def test_nothing_depends_on_the_report(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    before, files = report_path(run).read_bytes(), tree(run.folder)
    found = status(run)
    for spoilt in (b"", b"{", None):
        report_path(run).unlink()
        if spoilt is not None:
            report_path(run).write_bytes(spoilt)
        [problem] = verify(run)  # it is sealed like everything else, and no other file is wrong
        assert "report.json" in problem
        assert replace(status(run), seconds=0) == replace(found, seconds=0)  # the next build adds to its time
        build(small_recipe(), tmp_path / "run")
        assert report_path(run).read_bytes() == before
        assert tree(run.folder) == files
