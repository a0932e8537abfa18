"""A whole build against evaluation sets: what was found in which of them, and what could not be read."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.compute as pc
import pytest
from builds import small_recipe

import magpie
from magpie.build import build
from magpie.cli import app
from magpie.errors import RecipeChangedError


def some_instructions(folder: Path, count: int) -> list[str]:
    """What the scripted engine writes in the small recipe: the first of them."""
    run = build(small_recipe(), folder)
    return [text for text in run.dataset()["instruction"] if len(text.split()) > 5][:count]


def written(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_the_status_says_in_which_set_rows_were_found(tmp_path: Path) -> None:
    first, second, third = some_instructions(tmp_path / "before", 3)
    exams = [
        str(written(tmp_path / "wrens.jsonl", [{"question": first}, {"question": second}])),
        str(written(tmp_path / "owls.jsonl", [{"question": third}])),
    ]
    run = build(small_recipe(decontaminate={"files": exams}), tmp_path / "run")
    (step,) = (step for step in magpie.status(run).steps if step.name == "decontaminate")
    assert step.outcomes is not None and sum(step.outcomes.values()) == step.rows_in
    found = {Path(name.removeprefix("in ")).name: count for name, count in step.outcomes.items()}
    assert found.get("wrens.jsonl", 0) >= 2 and found.get("owls.jsonl", 0) >= 1


def test_every_common_shape_is_compared_and_the_rest_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = some_instructions(tmp_path / "before", 5)
    rows: list[object] = [
        {"instruction": texts[0]},
        {"messages": [{"role": "User", "content": texts[1]}, {"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": texts[2]}]}]},
        {"conversations": [{"from": "human", "value": texts[3]}, {"from": "gpt", "value": "x"}]},
        {"conversations": [{"from": "gpt", "value": "hello"}, {"from": "HUMAN", "value": texts[4]}]},
        {"label": 3},
    ]
    exam = written(tmp_path / "mixed.jsonl", rows)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(
        json.dumps(small_recipe(decontaminate={"files": str(exam)}).model_dump(mode="json")), "utf-8"
    )
    app(["build", str(recipe), "--out", str(tmp_path / "run")], standalone_mode=False)
    assert f"{exam}: 1 of 6 rows have no instruction that can be read: row 6" in caplog.text
    (step,) = (step for step in magpie.status(tmp_path / "run").steps if step.name == "decontaminate")
    assert step.rejected and sum(step.rejected.values()) >= 5


def test_a_question_in_a_later_message_of_the_user_is_found(tmp_path: Path) -> None:
    before = build(small_recipe(), tmp_path / "before")
    later = [turns[0] for turns in before.table(["later_turns"])["later_turns"].to_pylist() if turns]
    assert {message["role"] for message in later} == {"user"}
    asked = next(message["content"] for message in later if len(message["content"].split()) > 5)
    exam = written(tmp_path / "exam.jsonl", [{"question": asked}])
    run = build(small_recipe(decontaminate={"files": str(exam)}), tmp_path / "run")
    assert magpie.verify(run) == []
    (step,) = (step for step in magpie.status(run).steps if step.name == "decontaminate_turns")
    assert step.rejected["decontaminate_turns: words of an evaluation set"] >= 1
    kept = run.table(["later_turns"], rejected=False)["later_turns"].to_pylist()
    assert asked not in [message["content"] for turns in kept for message in turns or []]


def test_another_content_of_an_evaluation_set_is_asked_about_before_anything_is_replaced(
    tmp_path: Path,
) -> None:
    """The recipe is the same: what it names has changed."""
    first, second = some_instructions(tmp_path / "before", 2)
    exam = written(tmp_path / "exam.jsonl", [{"question": first}])
    recipe = small_recipe(decontaminate={"files": str(exam)})
    run = build(recipe, tmp_path / "run")
    written(exam, [{"question": first}, {"question": second}])
    asked = list[str]()

    def no(question: str) -> bool:
        asked.append(question)
        return False

    with pytest.raises(RecipeChangedError, match="is left as it was"):
        build(recipe, run.folder, ask=no)
    assert len(asked) == 1 and magpie.verify(run) == []
    build(recipe, run.folder, ask=lambda _: True)
    rejected = run.table(["instruction", "rejected"]).filter(pc.field("instruction") == second)
    assert rejected["rejected"].to_pylist() == ["decontaminate: words of an evaluation set"]
