"""Questions of the user's own: what a file may hold, how answers are read and counted, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builds import small_recipe
from jsonschema import Draft202012Validator
from recording import CHAT

from magpie.build import build
from magpie.errors import RecipeError
from magpie.figures.agreement import agreement
from magpie.recipe import JudgeQuestion, Recipe, Tag
from magpie.recipe.loading import load_recipe, parse_recipe
from magpie.steps.base.scales import CATEGORIES, DIFFICULTIES, QUALITIES
from magpie.steps.tag import QUESTIONS, JudgePrompt, Question

TONE = {
    "prompt": "Judge the tone. {{ instruction }}",
    "answer": {
        "why": {"type": "text"},
        "tone": {"type": "enum", "values": ["cold", "warm"], "ordered": True},
        "warmth": {"type": "number", "minimum": -1, "maximum": 1, "decimals": True},
    },
}
STARS = {"prompt": "{{ instruction }}", "answer": {"stars": {"type": "number", "minimum": 1, "maximum": 5}}}


def question(raw: dict[str, Any]) -> Question:
    return Question(JudgeQuestion(**raw))


def test_the_default_file_holds_the_published_questions() -> None:
    scales = {name: one.labels for name, one in QUESTIONS.items()}
    assert scales == {"difficulty": DIFFICULTIES, "quality": QUALITIES, "category": CATEGORIES}
    assert [one.ordered for one in QUESTIONS.values()] == [True, True, False]
    assert QUESTIONS["category"].others == "other_task_categories"


@pytest.mark.parametrize("raw", [TONE, STARS])
def test_answers_are_held_to_the_schema_and_read_back(raw: dict[str, Any]) -> None:
    asked = question(raw)
    schema = json.loads(asked.schema(max_text_length=20))
    Draft202012Validator.check_schema(schema)
    answer = {"why": "calm", "tone": "WARM", "warmth": 0.5, "stars": 4}
    given = {name: value for name, value in answer.items() if name in raw["answer"]}
    read = asked.read(json.dumps(given))
    assert read == given | ({"tone": "warm"} if "tone" in given else {})
    valid = Draft202012Validator(schema).is_valid
    assert valid(read) and not valid({**read, "more": 1})
    if "stars" in given:
        for wrong in (0, 6, 2.5, "4", True, None):
            assert not valid({"stars": wrong}) and asked.read(json.dumps({"stars": wrong})) is None
    else:
        assert asked.read(json.dumps(given | {"warmth": 2})) is None


def test_numbers_are_settled_by_the_median_and_labels_by_the_majority() -> None:
    votes = [{"stars": value} for value in (5, 1, 2, 4)]
    assert question(STARS).majority([*votes, None]) == {"stars": 2}
    assert question(TONE).label == "warmth", "the last column that is no text decides"
    assert question({"prompt": "{{ instruction }}", "answer": {"a": {}, "b": {}}}).label == "a"


def test_a_build_asks_them_several_times_and_counts_them(tmp_path: Path) -> None:
    tag = {
        "questions": {"tone": TONE, "stars": STARS},
        "times": 3,
        "temperature": 0.7,
        "second_judge": "other",
    }
    models = {
        "generator": "scripted",
        "other": {"model": "scripted", "script": {"slots": 9}},
        "embedder": "scripted",
    }
    run = build(small_recipe(tag=tag, filter=None, extend=None, models=models), tmp_path / "run")
    rows = [row for row in run.table().to_pylist() if row["tag_tokens"] is not None]
    assert run.recipe.tag is not None
    assert run.recipe.tag.tags == ("difficulty", "quality", "category", "tone", "stars")
    assert {row["tone"] for row in rows} == {"cold", "warm"} == {row["second_tone"] for row in rows}
    assert all(len(row["stars_votes"]) == 3 and 1 <= row["stars"] <= 5 for row in rows)
    assert all(-1 <= row["warmth"] <= 1 for row in rows)
    assert run.schema.field("stars").type == "int32" and run.schema.field("warmth").type == "float"
    compared = {one.tag for one in agreement(run)}
    assert {"difficulty", "input_quality"} <= compared and not {"stars", "warmth"} & compared


def test_one_that_is_named_like_a_published_question_takes_its_place() -> None:
    recipe = small_recipe(tag={"questions": {"quality": STARS}}, filter=None)
    assert recipe.tag is not None and recipe.tag.tags == ("difficulty", "quality", "category")
    assert recipe.tag.every_question["quality"].decides == "stars"
    only = small_recipe(tag={"tags": ["tone"], "questions": {"tone": TONE}}, filter=None)
    assert only.tag is not None and only.tag.tags == ("tone",)


def test_a_file_is_read_beside_the_recipe_and_stands_in_the_resolved_one(tmp_path: Path) -> None:
    (tmp_path / "tone.jinja").write_text("The tone?\n{{ instruction }}\n")
    (tmp_path / "q.yaml").write_text(
        "tone: {prompt: {file: tone.jinja}, answer: {tone: {type: enum, values: [cold, warm]}}}\n"
    )
    (tmp_path / "r.yaml").write_text(
        "name: r\nrows: 4\nmodels: {generator: demo}\ntag: {questions: q.yaml}\n"
    )
    recipe = load_recipe(tmp_path / "r.yaml", rows=8)
    assert recipe.tag is not None and recipe.tag.questions is not None
    assert recipe.tag.questions["tone"].prompt == "The tone?\n{{ instruction }}"
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe
    changed = load_recipe("demo", overrides={"tag.questions": str(tmp_path / "q.yaml")})
    assert changed.tag is not None and "tone" in changed.tag.tags


def test_old_recipes_have_the_settings_that_they_had() -> None:
    """No key more in what decides a fingerprint: runs that were begun before go on."""
    from magpie.steps import steps_of

    (tag,) = (step for step in steps_of(load_recipe("demo", engine="scripted")) if step.labels)
    assert set(tag.settings) == {
        "seed", "tags", "temperature", "times", "max_tokens", "max_text_length", "templates",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tag", "why"),
    [
        ({"tags": ["tone"]}, "`tags` names 'tone', which is no question"),
        ({"questions": {"a": {**STARS, "prompt": "no place"}}}, "must hold `{{ instruction }}` once"),
        (
            {"questions": {"a": {**STARS, "answer": {}}}},
            "questions.a.answer`: must be a list of at least one entry",
        ),
        ({"questions": {"a": {**STARS, "answer": {"x": {"type": "enum"}}}}}, "needs two different `values`"),
        ({"questions": {"a": {**STARS, "answer": {"x": {"type": "number"}}}}}, "a `minimum` and a `maximum`"),
        ({"questions": {"a": {**STARS, "answer": {"A b": {}}}}}, "lower-case letters"),
        ({"questions": {"a": {**STARS, "answer": {"difficulty": {}}}}}, "both fill the column `difficulty`"),
        (
            {"questions": {"a": {**STARS, "answer": {"x": {"type": "others"}}}}},
            "`others` needs just one `enum`",
        ),
        ({"questions": "no-such-file.yaml"}, "`tag.questions`: cannot read no-such-file.yaml"),
    ],
)
def test_what_is_no_question_is_refused(tag: dict[str, Any], why: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(name="r", rows=1, models={"generator": "demo"}, tag=tag)
    assert why in str(caught.value)


def test_a_prompt_with_another_variable_is_refused_when_it_is_bound(tmp_path: Path) -> None:
    own = {"a": {**STARS, "prompt": "{{ persona }} {{ instruction }}"}}
    with pytest.raises(RecipeError, match="no other variable"):
        build(small_recipe(tag=Tag(questions=own).model_dump(mode="json"), filter=None), tmp_path / "run")


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("{{ 1 / 0 }} {{ instruction }}", "is no template (division by zero)"),
        ("{% for a in range(10**9) %}{% endfor %} {{ instruction }}", "is no template (Range too big"),
        ("{{ 'a' * 10**10 }} {{ instruction }}", "it needs more than"),
        ("{% if false %}{{ instruction }}{% endif %}", "writes the instruction 0 times"),
        ("{% for a in [1, 2] %}{{ instruction }}{% endfor %}", "writes the instruction 2 times"),
    ],
)
def test_a_prompt_is_a_program_that_is_held_to_little(tmp_path: Path, prompt: str, why: str) -> None:
    own = {"a": {**STARS, "prompt": prompt}}
    with pytest.raises(RecipeError) as caught:
        build(small_recipe(tag=Tag(questions=own).model_dump(mode="json"), filter=None), tmp_path / "run")
    assert why in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "prompt", ["Judge it.\r\n{{ instruction }}\n", "{# a word #}Judge it.\n  {{- '\n' }}{{ instruction }}"]
)
def test_a_prompt_is_the_same_however_it_is_written(prompt: str) -> None:
    plain = JudgePrompt.load("Judge it.\n{{instruction}}", CHAT)
    assert JudgePrompt.load(prompt, CHAT).ids("Why?", room=900) == plain.ids("Why?", room=900)


@pytest.mark.parametrize(
    ("said", "label"), [("c", "C"), ("C++", "C++"), ("c#.", "C#"), ("go!", "Go"), ("", None)]
)
def test_labels_that_differ_in_marks_alone_are_told_apart(said: str, label: str | None) -> None:
    values = {"type": "enum", "values": ["C", "C++", "C#", "Go"]}
    asked = question({"prompt": "{{ instruction }}", "answer": {"used": values}})
    assert asked.read(json.dumps({"used": said})) == (None if label is None else {"used": label})


@pytest.mark.parametrize(
    ("values", "said", "label"),
    [
        (["A-", "B"], "A+", None),
        (["A-", "B"], "**a-**", "A-"),
        (["-1", "0"], "1", None),
        (["C++", "Java"], "C", None),
        (["C++", "Java"], "`C++`.", "C++"),
        (["very easy", "easy"], "Very_Easy.", "very easy"),
        (["very easy", "easy"], "very-easy", "very easy"),
        (["\u0e14\u0e35", "\u0e41\u0e22\u0e48"], "\u0e14\u0e38", None),  # Thai, whose vowels are marks
        (["\u0e14\u0e35", "\u0e41\u0e22\u0e48"], "\u201c\u0e14\u0e35\u201d", "\u0e14\u0e35"),
    ],
)
def test_no_mark_that_tells_labels_apart_is_passed_over(
    values: list[str], said: str, label: str | None
) -> None:
    raw = {"prompt": "{{ instruction }}", "answer": {"grade": {"type": "enum", "values": values}}}
    read = question(raw).read(json.dumps({"grade": said}))
    assert (read or {}).get("grade") == label
