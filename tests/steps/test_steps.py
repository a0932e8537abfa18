"""The list of steps: what each says of itself, where it comes in a run, and who waits for whom."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pytest
from builds import small_recipe

from magpie import steps as all_steps
from magpie.errors import RecipeError
from magpie.plan import BuildTools
from magpie.recipe import Guard, Recipe
from magpie.steps import FIRST_COLUMNS, MAGPIE, Method, columns_of, steps_of
from magpie.steps.base import REJECTED, GlobalStep, GlobalWork, RowStep, RowWork, Tools

MODELS = {
    "generator": "scripted", "judge": "generator", "second": {"model": "another", "engine": "scripted"},
    "embedder": "scripted", "base": "scripted", "reward": "scripted", "guard": "scripted",
}  # fmt: skip
RULES = [
    {"name": "good", "where": "input_quality = 'good'"},
    {"name": "rewarded", "where": "instruct_reward > 0"},
]


def full_recipe(**changes: Any) -> Recipe:
    """Every section that a recipe has."""
    sections: dict[str, Any] = {
        "models": MODELS,
        "steer": {"prompts": ["In {language}."], "variables": {"language": {"de": "German", "fr": "French"}}},
        "pii": {"action": "redact"},
        "language": {"keep": "steered"},
        "decontaminate": {"files": "recipes/demo-full-evaluation.jsonl", "distance": 0.1},
        "tag": {"second_judge": "second", "times": 2, "temperature": 0.7},
        "reward": {"baseline": {}},
        "prefer": {},
        "guard": {},
        "filter": {"name": "full", "rules": RULES},
    }
    return small_recipe(**(sections | changes))


FULL = steps_of(full_recipe())
KNOWN = [columns_of(FULL[:number]) for number in range(len(FULL))]
"""The columns that rows have before each step of FULL."""

each_step = pytest.mark.parametrize(
    ("step", "known"), list(zip(FULL, KNOWN, strict=True)), ids=[step.name for step in FULL]
)


def test_a_full_recipe_takes_every_step_in_order() -> None:
    assert [step.name for step in FULL] == [
        "instruct", "clean", "pii", "language", "embed", "decontaminate", "dedup", "tag", "second_tag", "prefilter",
        "respond", "extend", "decontaminate_turns", "candidates", "baseline", "response_pii", "reward", "prefer",
        "guard", "filter",
    ]  # fmt: skip


def test_no_step_is_written_and_left_out_of_the_list() -> None:
    written, left = set(), [RowStep, GlobalStep]
    while left:
        left += (kind := left.pop()).__subclasses__()
        if kind.__module__.startswith(f"{all_steps.__name__}.") and not kind.__abstractmethods__:
            written.add(kind.__name__)
    early = full_recipe().model_copy(update={"guard": Guard(early=True)})
    others = [steps_of(all_steps.whole_recipe(method)) for method in all_steps.METHODS]
    written.remove("UserStep")  # a user's own, which no shipped list has
    assert written == {type(step).__name__ for step in (*FULL, *steps_of(early), *chain(*others))}


@each_step
def test_a_step_says_what_it_is(step: RowStep | GlobalStep, known: pa.Schema) -> None:
    assert step.name == step.name.lower() and [other.name for other in FULL].count(step.name) == 1
    assert step.section in Recipe.model_fields
    assert step.bytes_per_row > 0 and step.version >= 1
    assert isinstance(step, RowStep) is not isinstance(step, GlobalStep)
    assert type(step).__doc__ and type(step).settings.__doc__


@each_step
def test_a_step_reads_what_is_known_before_it(step: RowStep | GlobalStep, known: pa.Schema) -> None:
    assert set(step.reads) <= set(known.names)
    assert len(set(step.reads)) == len(step.reads)
    assert not {"id", "index", REJECTED.name} & set(step.reads)  # these are given to every step
    assert set(step.missing_advice) <= {*step.reads, "input_quality"}


@each_step
def test_all_that_a_step_says_of_its_columns_is_of_columns_that_it_adds(
    step: RowStep | GlobalStep, known: pa.Schema
) -> None:
    names = step.adds.names
    assert len(set(names)) == len(names) > 0 and "id" not in names and "index" not in names
    assert step.rejects == (REJECTED.name in names)
    assert step.adds.field(REJECTED.name).type == pa.string() if step.rejects else True
    assert {*step.outcome_columns, *filter(None, [step.token_column])} <= set(names)
    for label in step.labels:
        assert {label.column, label.asked, *filter(None, [label.votes])} <= set(names)
        assert label.values and label.times >= 1
    # A column that is there already is made anew, as what it was.
    for field in step.adds:
        assert field.name not in known.names or known.field(field.name).type == field.type


@each_step
def test_settings_are_json_and_the_same_whenever_they_are_asked_for(
    step: RowStep | GlobalStep, known: pa.Schema
) -> None:
    again = next(other for other in steps_of(full_recipe()) if other.name == step.name)
    assert json.dumps(step.settings) == json.dumps(again.settings)
    assert step.fingerprint(BuildTools()).items() >= step.settings.items()


@each_step
def test_a_step_is_bound_to_work_of_its_kind(step: RowStep | GlobalStep, known: pa.Schema) -> None:
    work = step.bind(BuildTools())
    assert isinstance(work, RowWork if isinstance(step, RowStep) else GlobalWork)


@each_step
def test_a_step_with_a_model_names_its_role_and_how_it_is_spoken_to(
    step: RowStep | GlobalStep, known: pa.Schema
) -> None:
    use = step.uses
    if use is None:
        assert step.token_column is None and step.credited_as is None and not step.answers
        return
    assert use.role in MODELS
    assert (use.speech is None) == (use.purpose == "embed")
    assert (use.loaded is None) == (use.purpose == "format")
    assert use.needs_engine or step.token_column is None


def test_a_step_without_outcomes_says_so_when_it_is_asked() -> None:
    step = next(step for step in FULL if step.name == "clean")
    with pytest.raises(LookupError, match="clean has no outcomes"):
        step.outcomes({})


def names(**changes: Any) -> list[str]:
    return [step.name for step in steps_of(full_recipe(**changes))]


def test_dedup_by_quality_waits_for_the_judge_and_comes_after_the_second_judge() -> None:
    first = names()
    by_quality = names(dedup={"keep": "best_quality"})
    assert (
        by_quality.index("dedup") == by_quality.index("second_tag") + 1 == by_quality.index("prefilter") - 1
    )
    assert sorted(by_quality) == sorted(first)
    assert [name for name in by_quality if name != "dedup"] == [name for name in first if name != "dedup"]
    alone = names(dedup={"keep": "best_quality"}, tag={})
    assert alone.index("dedup") == alone.index("tag") + 1


@pytest.mark.parametrize("tag", [None, {"tags": ["difficulty", "category"]}])
def test_dedup_by_quality_without_a_judge_of_quality_says_what_to_do(tag: dict[str, Any] | None) -> None:
    advice = r"`dedup\.keep: best_quality` goes by `input_quality`, which nothing adds; switch `tag` on with"
    with pytest.raises(RecipeError, match=advice):
        names(dedup={"keep": "best_quality"}, tag=tag, filter=None)


@dataclass(frozen=True, slots=True)
class Adding(RowStep):
    """Adds one column, and reads others."""

    name: str
    reads: tuple[str, ...] = ()
    section = "extend"
    settings = {}  # noqa: RUF012 - as a class attribute it stands for a property

    @property
    def adds(self) -> pa.Schema:
        return pa.schema([(self.name, pa.string())])

    def bind(self, _: Tools) -> RowWork[None]:
        raise NotImplementedError


def order(*entries: list[Adding], answers: tuple[list[Adding], ...] = ()) -> list[str]:
    """The names of the steps of a method with these entries, in their places."""

    def planned(steps: list[Adding]) -> Any:
        return lambda recipe, columns: steps

    method = Method(tuple(map(planned, entries)), tuple(map(planned, answers)))
    return [step.name for step in steps_of(small_recipe(filter=None), method)]


def test_a_step_waits_for_what_it_reads_and_no_longer() -> None:
    a, b, c = Adding("a"), Adding("b", reads=("c",)), Adding("c")
    assert order([a], [b], [c], [Adding("d")]) == ["a", "c", "b", "d"]
    d = Adding("d", reads=("b",))
    assert order([b], [d], [c]) == order([d], [b], [c]) == order([d, b, c]) == ["c", "b", "d"]
    assert order([b, c]) == order([b], [c]) == ["c", "b"]
    # Steps of one entry stay together: who waits looks again after each entry, and not within one.
    assert order([b], [c, Adding("e", reads=("c",))]) == ["c", "e", "b"]


def test_who_waits_is_placed_before_the_answers_or_not_at_all() -> None:
    asks = Adding("a", reads=("later",))
    message = "`extend` reads the column `later`, which no step before it adds; switch on the step that does"
    with pytest.raises(RecipeError, match=message):
        order([asks], answers=([Adding("later")],))
    with pytest.raises(RecipeError, match=message):
        order([Adding("b")], answers=([asks],))
    assert order([Adding("later")], answers=([asks],)) == ["later", "a"]


def test_columns_are_those_of_the_steps_and_of_two_of_a_name_the_later_ones() -> None:
    assert columns_of(()) == FIRST_COLUMNS
    redacted = columns_of(FULL)
    assert redacted.names[:3] == ["id", "index", "rejected"]
    assert redacted.names.count("instruction") == redacted.names.count("response") == 1
    assert set(redacted.names) == {"id", "index"} | {name for step in FULL for name in step.adds.names}


def test_a_method_is_a_list_of_plans_and_nothing_is_loaded_by_planning() -> None:
    assert all(callable(plan) for plan in (*MAGPIE.instructions, *MAGPIE.answers))
    nowhere = dict.fromkeys(MODELS, "/no/such/model") | {"second": "/no/such/second"}
    recipe = full_recipe(models=nowhere, engine="transformers")
    assert [step.name for step in steps_of(recipe)] == [step.name for step in FULL]
