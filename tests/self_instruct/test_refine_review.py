"""An aligned model rewrites what was written, and a judge reviews it: both texts stay, and the answers are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import small_self_instruct
from rich.console import Console

import magpie
from magpie.build import build
from magpie.engines.base import Completion
from magpie.errors import RecipeError
from magpie.figures.comparison import compare_sets
from magpie.figures.report_figures import report_figures
from magpie.figures.reviewed import Reviewed, reviewed
from magpie.figures.status import status
from magpie.plan import make_plan
from magpie.plan.licences import licences_of
from magpie.publish.card.making import make_card
from magpie.publish.card.terms import models_of
from magpie.publish.source import open_source
from magpie.report.page.sections import sections
from magpie.runs.run import Run
from magpie.runs.verify import verify
from magpie.self_instruct.rules import CONTRADICTS, EMPTY
from magpie.self_instruct.tasks import Instance, seed_tasks
from magpie.steps.refine import _read

QUESTIONS = ("valid_task", "input_fits", "output_right")


def small(**changes: Any) -> Any:
    models = {"generator": "scripted", "embedder": "scripted", "refiner": {"model": "aligned"}}
    return small_self_instruct(**({"models": models, "refine": {}, "review": {}} | changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(small(), tmp_path_factory.mktemp("si") / "run")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(small(refine=None, review=None), tmp_path_factory.mktemp("si") / "plain")


def test_both_texts_are_kept_and_the_new_one_is_the_conversation(run: Run, plain: Run) -> None:
    assert verify(run) == []
    before = {row["id"]: row for row in pq.read_table(plain.folder / "dataset").to_pylist()}
    rows = pq.read_table(run.folder / "dataset").to_pylist()
    assert 10 < len(rows) <= len(before)
    for row in rows:
        was = before[row["id"].replace(run.recipe.name, plain.recipe.name)]
        assert (row["unrefined_task"], row["unrefined_instances"]) == (was["task"], was["instances"])
        assert row["task"] != was["task"] and row["task"].startswith("to ")
        parts = [row["task"], row["task_input"]] if row["task_input"] else [row["task"]]
        assert row["instruction"] == "\n\n".join(parts) == row["messages"][0]["content"]
        assert row["response"] == row["instances"][0]["output"] == row["messages"][1]["content"]
        assert row["task_input"] == row["instances"][0]["input"]
        assert 1 <= len(row["instances"]) <= len(was["instances"])
        assert row["response_length"] == len(row["response"])
        assert row["refiner"] == "scripted (aligned)"


def test_what_cannot_be_rewritten_is_out_for_a_reason_and_keeps_what_it_had(
    tmp_path: Path, plain: Run
) -> None:
    models = {"generator": "scripted", "embedder": "scripted"}
    aligned = {"model": "aligned", "script": {"failure_rate": 0.4, "cut_rate": 0.3}}
    run = build(small(models=models | {"refiner": aligned}), tmp_path / "run")
    assert verify(run) == []
    columns = ["task", "task_input", "instances", "instruction", "response", "unrefined_task"]
    earlier = {row["index"]: row for row in plain.table(columns[:-1]).to_pylist()}
    reasons = set()
    for row in run.table(columns).to_pylist():
        was = earlier[row["index"]]
        if str(row["rejected"]).startswith("refine: "):
            reasons.add(row["rejected"])
            assert was["rejected"] is None and row["unrefined_task"] == was["task"]
        if row["rejected"] is not None:  # here or before
            assert all(row[name] == was[name] for name in columns[:-1])
    assert {"refine: engine error", "refine: cut by length"} <= reasons


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"task": "Do", "examples": [{"input": "a", "output": "b"}]}', None),
        ('```json\n{"task": " Do ", "examples": [{"input": "a", "output": "b"}]}\n```', None),
        ("I cannot.", "not the JSON asked for"),
        ('{"task": 3, "examples": []}', "not the JSON asked for"),
        ('{"task": "Do", "examples": "b"}', "not the JSON asked for"),
        ('{"task": " ", "examples": [{"input": "a", "output": "b"}]}', "no task"),
        ('{"task": "Do", "examples": []}', "no instance"),
        ('{"task": "Do", "examples": [{"input": "a", "output": null}, 7]}', EMPTY),
        (
            '{"task": "Do", "examples": [{"input": "a", "output": "b"}, {"input": "a", "output": "c"}]}',
            CONTRADICTS,
        ),
    ],
)
def test_an_answer_of_any_form_is_read_or_has_a_reason(text: str, reason: str | None) -> None:
    task, instances, found = _read(Completion(text, 9, "stop"), 3)
    assert found == reason
    if reason is None:
        assert (task, instances) == ("Do", [Instance("a", "b")])


def test_a_refiner_is_named_or_the_recipe_says_what_to_add() -> None:
    with pytest.raises(RecipeError, match="add the aligned model that rewrites"):
        small_self_instruct(refine={})
    for section in ("refine", "review"):
        with pytest.raises(RecipeError, match=f"`{section}` is for `method: self-instruct`"):
            small_self_instruct(method="magpie", identify=None, **{section: {}})


def test_a_refiner_is_among_those_whose_licence_counts(run: Run) -> None:
    """Its answers are held to JSON as a judge's are, and are what the dataset holds all the same."""
    assert "aligned" in {each.model for each in licences_of(make_plan(run.recipe))}
    writes = {each.name: each.writes for each in models_of(open_source(run))}
    assert writes["scripted"] and any(wrote for name, wrote in writes.items() if "aligned" in name)


def test_personal_data_that_a_refiner_makes_up_is_looked_for_too() -> None:
    plan = make_plan(small(pii={"action": "redact"}))
    step = next(each.step for each in plan.steps if each.name == "response_pii")
    assert {"task", "instruction", "response", "instances", "unrefined_instances"} <= set(step.adds.names)


def test_a_judge_answers_three_questions_of_each_row(run: Run) -> None:
    rows = run.table([*QUESTIONS, "review_explanation", "review_tokens"], rejected=False).to_pylist()
    answers = [tuple(row[name] for name in QUESTIONS) for row in rows]
    assert len(set(answers)) > 3 and not any(None in answer for answer in answers)
    assert all(row["review_tokens"] > 0 and row["review_explanation"] for row in rows)
    outcomes = next(step.outcomes for step in status(run).steps if step.name == "review") or {}
    assert outcomes["all three"] == answers.count((True,) * 3) and outcomes["not all three"] > 0


def test_a_share_of_the_rows_is_reviewed_and_failures_are_said(tmp_path: Path) -> None:
    models = {
        "generator": "scripted",
        "embedder": "scripted",
        "judge": {"model": "other", "script": {"failure_rate": 0.3, "cut_rate": 0.2}},
    }
    changes = {"models": models, "refine": None, "review": {"share": 0.5, "max_text_length": 0}}
    run = build(small(**changes), tmp_path / "run")
    assert verify(run) == []
    rows = run.table([QUESTIONS[0], "review_tokens", "review_error"], rejected=False).to_pylist()
    asked = [row for row in rows if row["review_tokens"] is not None]
    assert 0.3 < len(asked) / len(rows) < 0.7
    assert {row["review_error"] for row in asked} == {None, "scripted failure", "cut by length"}
    assert all((row[QUESTIONS[0]] is None) == bool(row["review_error"]) for row in asked)
    assert "review_explanation" not in run.table().column_names


def test_the_answers_are_counted_in_the_report_and_on_the_card(run: Run) -> None:
    rows = pq.read_table(run.folder / "dataset", columns=list(QUESTIONS)).to_pylist()
    yes = [sum(row[name] for row in rows) for name in QUESTIONS]
    all_three = sum(all(row.values()) for row in rows)
    figures = report_figures(run, quick=True)
    assert figures.review == Reviewed(len(rows), tuple(yes), all_three)
    shown = next(each for section in sections(figures) for each in section.figures if each.name == "reviewed")
    assert shown.table is not None
    assert [line[1] for line in shown.table.rows] == [f"{count:,}" for count in (*yes, all_three)]
    assert [line[3] for line in shown.table.rows] == ["92.0 %", "79 %", "58 %", "54 %"]
    card = make_card(open_source(run), what="dataset", license="mit").text
    for count, question in zip(yes, ("Is the task", "Does the input", "Is the output"), strict=True):
        assert any(line.startswith(f"| {question}") and f"| {count} |" in line for line in card.splitlines())
    # How instructions were sampled is what this method samples with, and nothing of the other's.
    assert "presence penalty 2.0" in card and "| share of the rows |" not in card


def test_answers_are_counted_over_tables_and_other_columns_are_none() -> None:
    def table(*answers: tuple[Any, ...]) -> pa.Table:
        columns = zip(*answers, strict=True)
        return pa.table(
            {name: pa.array(held, pa.bool_()) for name, held in zip(QUESTIONS, columns, strict=True)}
        )

    first = table((True, True, True), (True, False, True), (None, None, None), (True, None, True))
    other = pa.table({name: ["yes"] for name in QUESTIONS})
    assert reviewed([first, other, table((False, True, False))]) == Reviewed(3, (2, 2, 2), 1)
    assert reviewed([other, pa.table({"a": [1]})]) is None and reviewed([]) is None


def test_how_near_tasks_are_to_the_seeds_is_what_rouge_score_says(run: Run) -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    tasks = pq.read_table(run.folder / "dataset", columns=["task"])["task"].to_pylist()
    nearest = [
        max(scorer.score(seed.instruction, task)["rougeL"].fmeasure for seed in seed_tasks(None))
        for task in tasks[:15]
    ]
    figures = report_figures(run, quick=True)
    assert figures.seeds is not None and figures.seeds.seeds == 175
    assert len(figures.seeds.values) == len(tasks) == figures.seeds.of
    assert np.abs(figures.seeds.values[:15] - nearest).max() < 1e-12


def test_seeds_that_are_gone_leave_the_figure_out(tmp_path: Path) -> None:
    seeds = tmp_path / "mine.jsonl"
    rows = [{"instruction": task.instruction, "id": task.id} for task in seed_tasks(None)[:40]]
    seeds.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = build(small(bootstrap={"seeds": str(seeds)}, identify=None, review=None), tmp_path / "run")
    seeds.unlink()
    figures = report_figures(Run.open(run.folder), quick=True)
    assert figures.seeds is None and "mine.jsonl" in figures.missing["seeds"]


def test_a_comparison_with_the_other_method_has_the_papers_figures(run: Run, tmp_path: Path) -> None:
    texts = ["Write a poem about the sea.", "Could you explain the rules of chess?", "Is it late?"] * 10
    other = tmp_path / "other.jsonl"
    talks = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]}
        for text in texts
    ]
    other.write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    result = compare_sets([run, other], with_vectors=False)
    named = {figure.name: figure for figure in result.figures}
    near = named["ROUGE-L with the nearest seed"]
    assert all(side is not None and 0 < side.value < 1 for side in near.sides)
    pairs = named.get("has a verb with an object")
    if pairs is not None:  # the parser is installed
        assert pairs.sides[1] is not None and pairs.sides[1].value == pytest.approx(2 / 3, abs=0.1)
        entropy = named["entropy of verb-noun"].sides[1]
        assert entropy is not None and entropy.value == pytest.approx(1, abs=0.05)
    # Of sets of the other method alone nothing is said of seeds.
    alone = compare_sets([other, other], with_vectors=False, with_verbs=False)
    assert not any("seed" in figure.name or "verb" in figure.name for figure in alone.figures)
    from magpie.report.comparison_table import print_sets

    console = Console(record=True, width=160)
    print_sets(result, console)
    assert "ROUGE-L with the nearest seed" in console.export_text()


def test_each_step_may_have_a_model_of_its_own(tmp_path: Path) -> None:
    """The original reads a file with the name of one model in it, whichever model was asked."""
    models = {
        "generator": "scripted",
        "embedder": "scripted",
        "one": {"model": "a/b c"},
        "two": {"model": "other"},
    }
    changes = {"models": models, "identify": {"model": "one"}, "instances": {"model": "two"}}
    run = build(small_self_instruct(**changes), tmp_path / "run")
    assert verify(run) == []
    orders = {
        (row["is_classification"], row["instance_order"])
        for row in run.table(["is_classification", "instance_order"], rejected=False).to_pylist()
    }
    assert orders == {(True, "output first"), (False, "input first")}


def test_exports_have_what_was_refined(run: Run, tmp_path: Path) -> None:
    magpie.export(run, "alpaca", tmp_path / "a.jsonl")
    written = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    rows = pq.read_table(run.folder / "dataset").to_pylist()
    assert sorted(line["output"] for line in written) == sorted(
        one["output"] for row in rows for one in row["instances"]
    )
