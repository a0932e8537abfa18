"""How well votes agree, on tables worked out by hand, and where a run says so."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from builds import scripted, small_recipe
from rich.console import Console

from magpie.build import build
from magpie.figures.agreement import Agreement, Votes, measure_agreement
from magpie.figures.status import status
from magpie.report.run_table import print_status
from magpie.runs.run import SUMMARY
from magpie.steps.base import Label
from magpie.steps.base.scales import DIFFICULTIES


def label(question: str, *values: str, ordered: bool = True) -> Label:
    """A label of so many values; what else a label says is not looked at when votes are compared."""
    return Label(question, question, values, ordered=ordered, votes=None, times=2, asked="tag_tokens")


AB = label("task_category", "a", "b", ordered=False)
ABC = label("difficulty", "a", "b", "c")
GRADES = label("difficulty", *DIFFICULTIES)


def nominal(votes: Votes, times: int = 2) -> Agreement:
    return measure_agreement(AB, votes, judges=("judge",), times=times)


def test_two_votes_by_hand() -> None:
    """Observed 0.7 and expected 0.5: kappa 0.4. Disagreement 0.3 of 2 x 55 x 45 / (100 x 99) = 0.5: alpha 0.4."""
    votes = [["a", "a"]] * 20 + [["a", "b"]] * 5 + [["b", "a"]] * 10 + [["b", "b"]] * 15
    found = nominal(votes)
    assert found.kappa == pytest.approx(0.4)
    assert found.alpha == pytest.approx(0.4)
    assert found.weighted_kappa is None
    assert (found.rows, found.lost, found.unanimous) == (50, 0, 0.7)
    assert found.pairs == {"a": {"a": 20, "b": 5}, "b": {"a": 10, "b": 15}}


def test_two_judges_on_a_scale_by_hand() -> None:
    """First 7 a, 2 b, 1 c, second 4 a, 4 b, 2 c, 7 of 10 the same.

    Kappa: (0.7 - 0.38) / (1 - 0.38). With squared distances: 0.6 observed of 1.16 expected. Alpha, ordinal, of 11 a,
    6 b, 3 c: distances 8.5, 4.5 and 13, squared; 627 / 20 observed of 2 x 10710 / 380 expected.
    """
    counts = {("a", "a"): 4, ("a", "b"): 2, ("a", "c"): 1, ("b", "b"): 2, ("c", "c"): 1}
    votes = [pair for pair, count in counts.items() for _ in range(count)]
    found = measure_agreement(ABC, [*votes, ("a", None), (None, None)], judges=("judge", "second"), times=2)
    assert found.kappa == pytest.approx(0.32 / 0.62)
    assert found.weighted_kappa == pytest.approx(1 - 0.6 / 1.16)
    assert found.alpha == pytest.approx(1 - (627 / 20) / (2 * 10710 / 380))
    assert (found.rows, found.lost, found.unanimous) == (10, 3, 0.7)
    assert found.pairs == {"a": {"a": 4, "b": 2, "c": 1}, "b": {"b": 2}, "c": {"c": 1}}


def test_what_cannot_be_compared_is_none() -> None:
    nothing = Agreement("task_category", ("judge",), 2, 0, 0, None, None, None, None, {})
    assert nominal([]) == nothing
    same = nominal([["a", "a"]] * 5)
    assert (same.unanimous, same.alpha, same.kappa, same.pairs) == (1.0, None, None, {"a": {"a": 5}})
    alone = nominal([["a", None], [None, None]])
    assert (alone.rows, alone.lost, alone.alpha, alone.kappa) == (0, 3, None, None)


def test_votes_that_are_lost_leave_the_others() -> None:
    found = nominal([["a", "a", None], ["b", "b", "b"], ["b", None, None]], times=3)
    assert (found.rows, found.lost, found.unanimous, found.alpha) == (2, 3, 1.0, 1.0)
    assert (found.kappa, found.weighted_kappa, found.pairs) == (None, None, None)


def test_labels_in_order_that_are_neighbours_differ_less() -> None:
    near = [["easy", "medium"], ["hard", "very hard"], ["very easy", "easy"], ["medium", "hard"]] * 10
    ordered = measure_agreement(GRADES, near, judges=("judge",), times=2)
    by_name = measure_agreement(replace(GRADES, ordered=False), near, judges=("judge",), times=2)
    assert ordered.alpha is not None and by_name.alpha is not None
    assert by_name.alpha < 0 < ordered.alpha < 1
    assert ordered.kappa is not None and ordered.weighted_kappa is not None
    assert ordered.kappa < 0 < ordered.weighted_kappa < 1


def test_a_run_says_how_well_its_judge_agrees_with_itself(tmp_path: Path) -> None:
    recipe = small_recipe(
        tag={"times": 2, "temperature": 0.7}, models=scripted(failure_rate=0.05, cut_rate=0.05)
    )
    run = build(recipe, tmp_path / "run")
    found = status(run)
    assert [one.tag for one in found.agreement] == ["difficulty", "input_quality", "task_category"]
    for one in found.agreement:
        assert one.judges == ("judge",) and one.times == 2 and one.rows > 50 and one.lost > 0
        assert one.alpha is not None and abs(one.alpha) < 0.5, "a script that draws by seed agrees by chance"
        assert one.kappa is not None and abs(one.kappa) < 0.5
    written = json.loads((run.folder / SUMMARY).read_text())
    assert written["agreement"][0]["alpha"] == found.agreement[0].alpha
    said = StringIO()
    print_status(found, Console(file=said, width=120))
    assert "judge, asked 2 times, agrees with itself on difficulty: " in said.getvalue()
    assert " the same, kappa " in said.getvalue() and " answers are missing\n" in said.getvalue()


def test_every_outcome_of_tagging_is_counted(tmp_path: Path) -> None:
    recipe = small_recipe(models=scripted(failure_rate=0.2, cut_rate=0.4))
    run = build(recipe, tmp_path / "run")
    found = status(run)
    assert found.agreement == ()
    step = next(one for one in found.steps if one.name == "tag")
    assert step.outcomes is not None and sum(step.outcomes.values()) == step.rows_in
    assert step.outcomes["tagged"] > 0
    assert step.outcomes["tagged, asked twice"] > 0
    assert (
        step.outcomes["category: cut by length twice"] > 0 and step.outcomes["category: scripted failure"] > 0
    )
    assert {one.name for one in found.steps if one.outcomes is not None} == {"tag", "respond"}
    said = StringIO()
    print_status(found, Console(file=said, width=120))
    assert "category: cut by length twice" in said.getvalue()
