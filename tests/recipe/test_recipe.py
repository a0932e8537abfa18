from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from magpie import recipe as parts
from magpie.errors import RecipeError
from magpie.recipe import Filter, Instruct, Model, Quotas, Recipe
from magpie.recipe.loading import load_recipe

MODELS = {"generator": Model(model="demo"), "judge": Model(model="demo"), "embedder": Model(model="e")}


def made(**changes: Any) -> Recipe:
    return Recipe(**({"name": "small", "rows": 10, "models": MODELS} | changes))


def test_what_is_not_written_has_a_default() -> None:
    recipe = made()
    assert recipe.instruct == Instruct()
    assert recipe.dedup is not None
    assert recipe.dedup.threshold == 0.05
    assert recipe.extend is None
    assert recipe.filter is None


def test_the_recipes_engine_is_for_models_that_name_none() -> None:
    models = MODELS | {"judge": Model(model="demo", engine="transformers")}
    recipe = made(models=models, engine="scripted")
    assert recipe.model("generator").engine == "scripted"
    assert recipe.model("judge").engine == "transformers"


@pytest.mark.parametrize(
    "section", ["instruct", "embed", "tag", "respond", "extend", "reward", "prefer", "guard"]
)
def test_a_section_must_name_a_role_that_is_there(section: str) -> None:
    with pytest.raises(RecipeError, match=rf"`{section}\.model` is 'nobody'.*generator, judge, embedder"):
        made(**{section: {"model": "nobody"}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tag": {"second_judge": "nobody"}}, "`tag.second_judge` is 'nobody', which is not under `models`"),
        (
            {"reward": {"model": "judge", "baseline": {}}},
            "`reward.baseline.model` is 'base', which is not under `models`; the roles there are: generator, judge, "
            "embedder; add the base model that the generator was aligned from",
        ),
        (
            {"prefer": {}},
            "`prefer.reward` is 'reward', which is not under `models`; the roles there are: generator, judge, "
            "embedder; add the reward model that chooses among the answers",
        ),
    ],
)
def test_a_role_is_looked_for_wherever_a_section_names_one(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        made(**changes)


def test_a_recipe_lists_its_sections_and_the_roles_that_they_name() -> None:
    recipe = made(respond={}, reward={"model": "judge", "baseline": {"model": "generator"}}, tag=None)
    assert [name for name, _ in recipe.sections()] == [
        "instruct", "clean", "language", "embed", "dedup", "respond", "reward",
    ]  # fmt: skip
    assert recipe.roles() == {
        "instruct.model": "generator",
        "embed.model": "embedder",
        "respond.model": "generator",
        "reward.model": "judge",
        "reward.baseline.model": "generator",
    }


@pytest.mark.parametrize("section", ["embed", "tag"])
def test_a_section_that_is_off_needs_no_model(section: str) -> None:
    role = {"embed": "embedder", "tag": "judge"}[section]
    models = {name: model for name, model in MODELS.items() if name != role}
    assert getattr(made(models=models, dedup=None, **{section: None}), section) is None


def test_a_step_cannot_stand_without_the_one_it_reads() -> None:
    with pytest.raises(RecipeError, match="`dedup` needs `embed`"):
        made(embed=None)
    with pytest.raises(RecipeError, match="`extend` needs `respond`"):
        made(respond=None, extend={})
    with pytest.raises(RecipeError, match=r"`decontaminate\.distance` needs `embed`"):
        made(embed=None, dedup=None, decontaminate={"files": "exam.jsonl", "distance": 0.1})
    assert made(embed=None, dedup=None, respond=None).respond is None


def test_quotas_say_how_many() -> None:
    with pytest.raises(RecipeError, match="`each` or `counts`"):
        Quotas(by="task_category")
    assert Quotas(by="task_category", counts={"Math": 0}).counts == {"Math": 0}


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "a/b", ".a", "-a"])
def test_a_name_is_safe_as_a_folder(name: str) -> None:
    with pytest.raises(RecipeError):
        made(name=name)


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 0},
        {"seed": -1},
        {"shard_rows": 0},
        {"instruct": {"mix": [{"share": 0}]}},
        {"instruct": {"mix": [{"top_p": 0}]}},
        {"instruct": {"mix": [{"temperature": -1}]}},
        {"extend": {"turns": 1}},
        {"dedup": {"threshold": 5}},
        {"filter": {"top": {"by": "id", "n": 0}}},
        {"rows": True},
        {"instruct": {"mix": [{"temperature": False}]}},
        {"models": MODELS | {"judge": {"model": "demo", "slots": True}}},
        {"decontaminate": {"files": "exam.jsonl", "distance": True}},
    ],
)
def test_numbers_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        made(**changes)


def all_parts() -> list[type[BaseModel]]:
    found = [
        thing for thing in vars(parts).values() if isinstance(thing, type) and issubclass(thing, parts.Part)
    ]
    return [part for part in found if part is not parts.Part]


@pytest.mark.parametrize("part", all_parts(), ids=lambda part: part.__name__)
def test_every_part_refuses_unknown_keys_cannot_be_changed_and_says_what_it_is(part: type[BaseModel]) -> None:
    assert part.model_config["extra"] == "forbid"
    assert part.model_config["frozen"]
    assert part.__doc__


@pytest.mark.parametrize("part", all_parts(), ids=lambda part: part.__name__)
def test_every_setting_says_what_it_means(part: type[BaseModel]) -> None:
    assert [name for name, field in part.model_fields.items() if not field.description] == []


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        made().rows = 3  # type: ignore[misc]


def test_a_filter_may_be_empty() -> None:
    assert Filter() == Filter(name="filter", rules=(), quotas=None, top=None)


def test_the_short_forms_of_files_work_in_python() -> None:
    models: dict[str, Any] = {
        "generator": "demo",
        "judge": "generator",
        "embedder": {"model": "demo-embedder"},
    }
    recipe = Recipe(name="small", rows=10, models=models, filter="demo", steer={"prompts": ["Be brief."]})
    assert recipe.models["judge"] == recipe.models["generator"] == Model(model="demo")
    assert recipe.filter is not None and recipe.filter.name == "demo"
    assert recipe.steer is not None and recipe.steer.prompts[0].text == "Be brief."
    rules = made(filter=[{"name": "short", "where": "instruction_length < 9"}]).filter
    assert rules is not None and rules.rules[0].name == "short"
    assert models["judge"] == "generator"  # what was given stays as it was


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe(name="small", rows=10, models={"generator": "judge", "judge": "generator"}), "at itself"),
        (lambda: Recipe(name="small", rows=10, models={"generator": "a"}, tags={}), "`tags`.*did you mean `tag`"),
        (lambda: Recipe(name="small", rows=10, models="demo"), "Recipe: `models`: must be a mapping"),
        (lambda: Recipe(name="small", rows=10, models={}), "`instruct.model` is 'generator'"),
        (lambda: Recipe(rows=10, models={"generator": "a"}), "Recipe: `name` is missing; add it"),
        (lambda: Model(model="a", context_length=1), "Model: `context_length`: must be greater than or equal to 64"),
        (lambda: Instruct(mix=()), "Instruct: `mix`: must be a list of at least one entry"),
        (lambda: made(filter="no-such"), "Recipe: no filter 'no-such'"),
    ],
)  # fmt: skip
def test_a_mistake_in_python_is_magpies_own_error(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value) and "pydantic" not in str(caught.value)


def test_a_generator_alone_is_enough() -> None:
    alone: dict[str, Any] = {
        "name": "small",
        "rows": 10,
        "models": {"generator": {"model": "a", "dtype": "float16"}},
    }
    recipe = Recipe(**alone)
    assert recipe.models["judge"] == recipe.models["generator"]
    assert recipe.models["embedder"] == Model(model="demo-embedder")
    # What is changed in the generator is changed in the judge, which is the same model.
    changed = load_recipe(alone, overrides={"models.generator.context_length": 512}, engine="scripted")
    assert changed.models["judge"] == changed.models["generator"]
    assert changed.models["judge"].context_length == 512
    other = load_recipe(alone, overrides={"models.judge.context_length": 512})
    assert other.models["judge"].model == "a" and other.models["generator"].context_length == 4096
    # A role that nothing asks for is not there.
    assert list(Recipe(**alone, tag=None, embed=None, dedup=None).models) == ["generator"]
