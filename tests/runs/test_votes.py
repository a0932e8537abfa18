"""How well votes agree, on tables worked out by hand, and where a run says so."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from builds import scripted, small_recipe
from rich.console import Console

from magpie.report.status import print_status
from magpie.runs.agreement import Agreement, Votes, compare
from magpie.runs.build import build
from magpie.runs.report import report_path
from magpie.runs.status import status
from magpie.steps.tag import DIFFICULTIES

AB = ("a", "b")


def nominal(votes: Votes, times: int = 2) -> Agreement:
    return compare("task_category", votes, labels=AB, times=times, level="nominal")


def test_two_votes_by_hand() -> None:
    """Observed 0.7 and expected 0.5: kappa 0.4. Disagreement 0.3 of 2 x 55 x 45 / (100 x 99) = 0.5: alpha 0.4."""
    votes = [["a", "a"]] * 20 + [["a", "b"]] * 5 + [["b", "a"]] * 10 + [["b", "b"]] * 15
    found = nominal(votes)
    assert found.kappa == pytest.approx(0.4)
    assert found.alpha == pytest.approx(0.4)
    assert (found.rows, found.lost, found.unanimous) == (50, 0, 0.7)


def test_what_cannot_be_compared_is_none() -> None:
    assert nominal([]) == Agreement("task_category", 2, 0, 0, None, None, None)
    same = nominal([["a", "a"]] * 5)
    assert (same.unanimous, same.alpha, same.kappa) == (1.0, None, None)
    alone = nominal([["a", None], [None, None]])
    assert (alone.rows, alone.lost, alone.alpha, alone.kappa) == (0, 3, None, None)


def test_votes_that_are_lost_leave_the_others() -> None:
    found = nominal([["a", "a", None], ["b", "b", "b"], ["b", None, None]], times=3)
    assert (found.rows, found.lost, found.unanimous, found.alpha, found.kappa) == (2, 3, 1.0, 1.0, None)


def test_labels_in_order_that_are_neighbours_differ_less() -> None:
    near = [["easy", "medium"], ["hard", "very hard"], ["very easy", "easy"], ["medium", "hard"]] * 10
    by_order = compare("difficulty", near, labels=DIFFICULTIES, times=2, level="ordinal").alpha
    by_name = compare("difficulty", near, labels=DIFFICULTIES, times=2, level="nominal").alpha
    assert by_order is not None and by_name is not None
    assert by_name < 0 < by_order < 1


def test_a_run_says_how_well_its_judge_agrees_with_itself(tmp_path: Path) -> None:
    recipe = small_recipe(
        tag={"times": 2, "temperature": 0.7}, models=scripted(failure_rate=0.02, cut_rate=0.02)
    )
    run = build(recipe, tmp_path / "run")
    found = status(run)
    assert [one.tag for one in found.agreement] == ["difficulty", "input_quality", "task_category"]
    for one in found.agreement:
        assert one.times == 2 and one.rows > 50 and one.lost > 0
        assert one.alpha is not None and abs(one.alpha) < 0.5, "a script that draws by seed agrees by chance"
        assert one.kappa is not None and abs(one.kappa) < 0.5
    written = json.loads(report_path(run).read_text())
    assert written["agreement"][0]["alpha"] == found.agreement[0].alpha
    said = StringIO()
    print_status(found, Console(file=said, width=120))
    assert "difficulty: 2 votes on" in said.getvalue() and "Cohen's kappa" in said.getvalue()


def test_every_outcome_of_tagging_is_counted(tmp_path: Path) -> None:
    recipe = small_recipe(models=scripted(failure_rate=0.05, cut_rate=0.1))
    run = build(recipe, tmp_path / "run")
    found = status(run)
    assert found.agreement == ()
    step = next(one for one in found.steps if one.name == "tag")
    assert step.outcomes is not None and sum(step.outcomes.values()) == step.rows_in
    assert step.outcomes["tagged"] > 0
    assert step.outcomes["category: cut by length"] > 0 and step.outcomes["category: scripted failure"] > 0
    assert all(one.outcomes is None for one in found.steps if one.name != "tag")
    said = StringIO()
    print_status(found, Console(file=said, width=120))
    assert "category: cut by length" in said.getvalue()
