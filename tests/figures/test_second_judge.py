"""A second judge: its columns, its place in the plan, what becomes of it when a build is resumed, and what is said."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builds import RULES, scripted, shard_path, small_recipe, tree
from rich.console import Console

from magpie.build import build
from magpie.data.select import refilter
from magpie.errors import RecipeError
from magpie.figures.agreement import Agreement, agreement
from magpie.figures.status import status
from magpie.plan import make_plan
from magpie.recipe import Recipe
from magpie.recipe.loading import load_filter
from magpie.report.filter_tables import print_funnel
from magpie.report.run_table import print_status
from magpie.runs.kept import RunRows
from magpie.runs.run import SUMMARY, Run
from magpie.runs.verify import verify
from magpie.steps.base.scales import DIFFICULTIES

AGREED = {"name": "both find it good", "where": "second_input_quality IN ('average', 'good', 'excellent')"}


def two_judges(tag: dict[str, Any] | None = None, **script: Any) -> Recipe:
    """The small recipe with a judge and a second one, and a rule that asks the second."""
    models = scripted(**script) | {"other": {"model": "scripted-too", "script": script}}
    filter_ = {"name": "both", "rules": [*RULES, AGREED]}
    return small_recipe(models=models, tag={"second_judge": "other"} | (tag or {}), filter=filter_)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished build with two judges, some of whose answers are missing."""
    return build(two_judges(failure_rate=0.05, cut_rate=0.3), tmp_path_factory.mktemp("two") / "run")


def columns(run: Run, *names: str) -> dict[str, list[Any]]:
    tables = [run.rows(shard, names) for shard in range(run.shards)]
    return {name: [value for table in tables for value in table[name].to_pylist()] for name in names}


def columns_by_shard(run: Run, *names: str) -> dict[str, list[list[Any]]]:
    tables = [run.rows(shard, names) for shard in range(run.shards)]
    return {name: [table[name].to_pylist() for table in tables] for name in names}


def test_the_second_judge_comes_right_after_the_first_on_a_model_of_its_own() -> None:
    plan = make_plan(two_judges())
    names = [run_step.name for run_step in plan.steps]
    at = names.index("tag")
    assert names[at + 1] == "second_tag"
    assert plan.steps[at].step.uses != plan.steps[at + 1].step.uses
    assert not any({"tag", "second_tag"} <= {step.name for step in phase.steps} for phase in plan.phases)
    late = [
        step.name
        for step in make_plan(
            two_judges().model_copy(update={"dedup": small_recipe(dedup={"keep": "best_quality"}).dedup})
        ).steps
    ]
    assert late.index("dedup") == late.index("second_tag") + 1
    assert "second_tag" not in [run_step.name for run_step in make_plan(small_recipe()).steps]


def test_each_judge_has_its_columns_and_the_dataset_names_both(run: Run) -> None:
    assert verify(run) == []
    tags = {"difficulty", "intent", "knowledge", "input_quality", "quality_explanation", "task_category"}
    table = run.dataset()
    assert tags | {f"second_{name}" for name in tags} | {"second_other_task_categories"} <= set(
        table.column_names
    )
    assert not {"tag_error", "tag_retries", "second_tag_error", "second_tag_retries"} & set(
        table.column_names
    )
    assert set(table["judge"]) == {"scripted"}
    assert set(table["second_judge"]) == {"scripted-too"}
    assert set(table["second_input_quality"]) <= {"average", "good", "excellent"}
    assert "second_judge" not in build(small_recipe(), run.folder.parent / "one").dataset().column_names


def ordinal_alpha(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any], labels: int) -> float:
    """Krippendorff's alpha of two labels a row, by its definition: 1 - observed over expected disagreement."""
    coincidences = np.zeros((labels, labels))
    np.add.at(coincidences, (first, second), 1)
    coincidences += coincidences.T
    totals = coincidences.sum(axis=0)
    apart = np.array(
        [
            [
                (totals[min(one, other) : max(one, other) + 1].sum() - (totals[one] + totals[other]) / 2) ** 2
                for other in range(labels)
            ]
            for one in range(labels)
        ]
    )
    expected = np.outer(totals, totals) / (totals.sum() - 1)
    return 1 - float((coincidences * apart).sum() / (expected * apart).sum())


def test_the_agreement_is_that_of_the_two_columns(run: Run) -> None:
    found = {one.tag: one for one in agreement(run)}
    assert list(found) == ["difficulty", "input_quality", "task_category"]
    said = columns(run, "difficulty", "second_difficulty", "tag_tokens", "second_tag_tokens")
    assert [one is None for one in said["tag_tokens"]] == [one is None for one in said["second_tag_tokens"]]
    rows = sum(tokens is not None for tokens in said["tag_tokens"])
    pairs = [
        (DIFFICULTIES.index(one), DIFFICULTIES.index(other))
        for one, other in zip(said["difficulty"], said["second_difficulty"], strict=True)
        if one is not None and other is not None
    ]
    first, second = np.array(pairs).T
    one = found["difficulty"]
    assert one.judges == ("judge", "other") and one.times == 2
    assert one.rows == len(pairs) < rows
    assert one.lost == sum(
        label is None
        for name in ("difficulty", "second_difficulty")
        for label, tokens in zip(said[name], said["tag_tokens"], strict=True)
        if tokens is not None
    )
    assert one.unanimous == pytest.approx(float((first == second).mean()))
    chance = sum(float((first == at).mean() * (second == at).mean()) for at in range(5))
    assert one.kappa == pytest.approx(((first == second).mean() - chance) / (1 - chance))
    expected = ((first[:, None] - second[None, :]) ** 2).mean()
    assert one.weighted_kappa == pytest.approx(1 - ((first - second) ** 2).mean() / expected)
    assert one.alpha == pytest.approx(ordinal_alpha(first, second, len(DIFFICULTIES)))
    assert one.pairs == {
        DIFFICULTIES[mine]: {
            DIFFICULTIES[theirs]: int(np.sum((first == mine) & (second == theirs)))
            for theirs in range(5)
            if np.any((first == mine) & (second == theirs))
        }
        for mine in range(5)
        if np.any(first == mine)
    }
    assert found["task_category"].weighted_kappa is None


def test_the_outcomes_of_both_judges_are_counted(run: Run) -> None:
    for step in status(run).steps:
        if step.name in {"tag", "second_tag"}:
            assert step.outcomes is not None and sum(step.outcomes.values()) == step.rows_in
            assert step.outcomes["tagged"] > 0 and step.outcomes["tagged, asked twice"] > 0
            assert step.tokens


def test_the_report_the_status_and_the_funnel_say_how_well_they_agree(run: Run) -> None:
    found = status(run)
    written = json.loads((run.folder / SUMMARY).read_text())["agreement"]
    assert [one["tag"] for one in written] == ["difficulty", "input_quality", "task_category"]
    assert written[1]["judges"] == ["judge", "other"] and written[1]["pairs"] == found.agreement[1].pairs
    for say in (
        lambda console: print_status(found, console),
        lambda console: print_funnel(refilter(RunRows(run), load_filter("demo")), console, agreement(run)),
    ):
        said = StringIO()
        say(Console(file=said, width=60))
        (line,) = (one for one in said.getvalue().splitlines() if "input_quality: " in one)
        assert line.startswith("judge and other agree on input_quality: ")
        assert "% the same, kappa " in line and f" (of {found.agreement[1].rows} rows)" in line


def test_two_judges_that_vote_are_each_compared_with_themselves_too(tmp_path: Path) -> None:
    recipe = two_judges({"tags": ["quality"], "times": 3, "temperature": 0.7})
    recipe = recipe.model_copy(update={"filter": None})
    built = build(recipe, tmp_path / "run", stop_after="second_tag")
    found = agreement(built)
    assert [(one.judges, one.times) for one in found] == [
        (("judge", "other"), 2),
        (("judge",), 3),
        (("other",), 3),
    ]
    assert {"input_quality_votes", "second_input_quality_votes"} <= set(built.schema.names)
    assert [one.kappa is None for one in found] == [False, True, True]


def test_judges_are_compared_on_the_shards_that_both_have_tagged(run: Run, tmp_path: Path) -> None:
    half = Run.open(shutil.copytree(run.folder, tmp_path / "run"))
    shard_path(half, "tag", 0).unlink()
    shard_path(half, "second_tag", 1).unlink()
    shard_path(half, "second_tag", 2).write_bytes(b"cut")
    both = {name: columns_by_shard(run, name, f"second_{name}") for name in ("difficulty", "input_quality")}
    for one in agreement(half):
        if one.tag in both:
            mine, theirs = both[one.tag].values()
            answered = [
                None not in pair
                for shard in range(3, run.shards)
                for pair in zip(mine[shard], theirs[shard], strict=True)
            ]
            assert one.rows == sum(answered) > 0


def test_a_build_that_stopped_between_the_judges_is_gone_on_with(run: Run, tmp_path: Path) -> None:
    recipe = run.recipe
    build(recipe, tmp_path / "run", stop_after="tag")
    nothing: dict[str, Any] = {"rows": 0, "lost": 0, "unanimous": None, "alpha": None, "kappa": None}
    assert agreement(Run.open(tmp_path / "run")) == tuple(
        Agreement(tag, ("judge", "other"), 2, **nothing, weighted_kappa=None, pairs={})
        for tag in ("difficulty", "input_quality", "task_category")
    )
    again = build(recipe, tmp_path / "run")
    assert tree(again.folder) == tree(run.folder)
    shard_path(again, "second_tag", 3).unlink()
    assert tree(build(recipe, tmp_path / "run").folder) == tree(run.folder)


@pytest.mark.parametrize(
    ("models", "why"),
    [
        (
            {},
            r"`tag.second_judge` is 'other', which is not under `models`; the roles there are: generator, judge",
        ),
        ({"other": "judge"}, r"the same model as the first judge 'judge'.*`tag.times`"),
        (
            {"other": {"model": "scripted", "slots": 3, "thinking": "off"}},
            r"the same model as the first judge",
        ),
    ],
)
def test_a_second_judge_is_there_and_is_another(models: dict[str, Any], why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        small_recipe(models=scripted() | models, tag={"second_judge": "other"})


@pytest.mark.parametrize("other", [{"dtype": "float32"}, {"chat_template": "chatml"}, {"revision": "v2"}])
def test_another_dtype_template_or_revision_is_another_judge(other: dict[str, Any]) -> None:
    models = scripted() | {"other": {"model": "scripted"} | other}
    assert make_plan(small_recipe(models=models, tag={"second_judge": "other"})).steps


def test_the_first_judge_s_tags_do_not_depend_on_the_second(tmp_path: Path) -> None:
    alone = build(small_recipe(models=scripted()), tmp_path / "one", stop_after="tag")
    both = build(two_judges(), tmp_path / "two", stop_after="tag")
    for name in ("difficulty", "input_quality", "intent"):
        assert columns_of_tag(alone, name) == columns_of_tag(both, name)


def columns_of_tag(run: Run, name: str) -> list[Any]:
    before = run.steps[run.step("tag").number]
    return [
        value
        for shard in range(run.shards)
        for value in run.rows(shard, [name], before=before)[name].to_pylist()
    ]
