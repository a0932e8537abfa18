from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from magpie import recipe as parts
from magpie.recipe import Filter, Instruct, Model, Quotas, Recipe

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
    with pytest.raises(ValidationError, match=rf"`{section}\.model` is 'nobody'.*generator, judge, embedder"):
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
    with pytest.raises(ValidationError, match=re.escape(message)):
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
    with pytest.raises(ValidationError, match="`dedup` needs `embed`"):
        made(embed=None)
    with pytest.raises(ValidationError, match="`extend` needs `respond`"):
        made(respond=None, extend={})
    with pytest.raises(ValidationError, match=r"`decontaminate\.distance` needs `embed`"):
        made(embed=None, dedup=None, decontaminate={"files": "exam.jsonl", "distance": 0.1})
    assert made(embed=None, dedup=None, respond=None).respond is None


def test_quotas_say_how_many() -> None:
    with pytest.raises(ValidationError, match="`each` or `counts`"):
        Quotas(by="task_category")
    assert Quotas(by="task_category", counts={"Math": 0}).counts == {"Math": 0}


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "a/b", ".a", "-a"])
def test_a_name_is_safe_as_a_folder(name: str) -> None:
    with pytest.raises(ValidationError):
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
    with pytest.raises(ValidationError):
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
