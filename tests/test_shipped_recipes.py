"""The recipes and filters that ship: the published settings, and what the published rules keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from magpie import shipped
from magpie.errors import RecipeError
from magpie.recipe import Top
from magpie.recipe.loading import load_filter, load_recipe
from magpie.runs.plan import make_plan
from magpie.steps.filter import FilterStep, applicable, check
from magpie.steps.instruct import steered

# quality, difficulty, reward difference, reward, the instruction's last character, response length
ROWS: list[tuple[str | None, str | None, float | None, float | None, str, int]] = [
    ("good", "medium", 1.0, 0.0, "?", 900),
    ("excellent", "hard", 0.5, -9.0, "?", 800),
    ("good", "very hard", 2.0, -10.0, ".", 700),
    ("excellent", "medium", 0.1, 3.0, ":", 600),
    ("good", "hard", 0.0, 1.0, "?", 1000),
    ("good", "hard", -1.0, 1.0, "?", 1001),
    ("good", "hard", None, None, "?", 1002),
    ("good", "easy", 1.0, 1.0, "?", 1003),
    ("excellent", "very easy", 1.0, 1.0, "?", 1004),
    ("average", "medium", 1.0, 1.0, "?", 1005),
    ("average", "easy", 1.0, -10.5, "?", 1006),
    ("average", "hard", 1.0, -12.0, ".", 1007),
    ("average", "very hard", 1.0, 2.0, ":", 1008),
    ("poor", "medium", 1.0, 1.0, "?", 1009),
    ("very poor", "hard", 1.0, 1.0, "?", 1010),
    (None, "hard", 1.0, 1.0, "?", 1011),
    ("good", None, 1.0, 1.0, "?", 1012),
    ("good", "medium", 3.0, 4.0, "?", 10),
    ("good", "medium", 3.0, 4.0, "?", 10),
    ("average", "very easy", -2.0, 5.0, ".", 11),
]
AIR = [0, 1, 2, 3, 17, 18]
AIR_WITHOUT_REWARD = [0, 1, 2, 3, 4, 5, 6, 17, 18]
PRO = [0, 1, 2, 4, 5, 7, 8, 9, 16, 17, 18, 19]
PRO_WITHOUT_REWARD = sorted([*PRO, 6, 10, 11])


def run(*, scored: bool) -> pa.Table:
    quality, difficulty, difference, reward, ending, length = zip(*ROWS, strict=True)
    columns: dict[str, Any] = {
        "id": [str(at) for at in range(len(ROWS))],
        "index": pa.array(range(len(ROWS)), pa.int64()),
        "rejected": pa.nulls(len(ROWS), pa.string()),
        "instruction": [f"Tell me about number {at}{end}" for at, end in enumerate(ending)],
        "input_quality": quality,
        "difficulty": difficulty,
        "response_length": pa.array(length, pa.int32()),
    }
    if scored:
        columns |= {"reward_difference": difference, "instruct_reward": reward}
    return pa.table(columns)


def kept(name: str, *, scored: bool, n: int | None = None) -> list[int]:
    rows = run(scored=scored)
    filter, skipped = applicable(load_filter(name), rows.schema)
    assert bool(skipped) is not scored
    check(filter, rows.schema)
    if n is not None:
        filter = filter.model_copy(update={"top": Top(by="response_length", n=n)})
    reasons = FilterStep(filter, filter.rules).run_all(rows)["rejected"].to_pylist()
    return [at for at, reason in enumerate(reasons) if reason is None]


@pytest.mark.parametrize("name", shipped.names("recipes"))
def test_every_recipe_loads_under_its_own_name(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.description


@pytest.mark.parametrize("name", shipped.names("filters"))
def test_every_filter_loads_and_says_what_it_is(name: str) -> None:
    assert load_filter(name).name == name and load_filter(name).description


def test_air_is_as_published() -> None:
    recipe = load_recipe("air")
    assert recipe.rows == 3_000_000 == sum(draw.share for draw in recipe.instruct.mix) * 1000
    shares = {(draw.temperature, draw.top_p): draw.share for draw in recipe.instruct.mix}
    assert shares == {
        (temperature, top_p): 100 if temperature == 1.25 else 300
        for temperature in (1.0, 1.1, 1.2, 1.25)
        for top_p in (1.0, 0.995, 0.99)
    }
    assert recipe.model("generator").model == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert recipe.model("judge") == recipe.model("generator")


def test_pro_is_as_published() -> None:
    recipe = load_recipe("pro")
    assert recipe.rows == 1_000_000 == sum(draw.share for draw in recipe.instruct.mix) * 1000
    assert [(draw.temperature, draw.top_p, draw.share) for draw in recipe.instruct.mix] == [
        (1.0, 1.0, 300), (1.1, 0.995, 300), (1.2, 0.995, 300), (1.25, 0.99, 100),
    ]  # fmt: skip
    assert recipe.model("generator").model == "meta-llama/Meta-Llama-3-70B-Instruct"
    assert recipe.model("generator").tensor_parallel == 4
    assert recipe.model("judge").model == "meta-llama/Meta-Llama-3-8B-Instruct"


@pytest.mark.parametrize("name", ["air", "pro"])
def test_what_air_and_pro_share_is_as_published(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.model("generator").context_length == 4096
    assert recipe.model("embedder").model == "sentence-transformers/all-mpnet-base-v2"
    assert recipe.instruct.max_tokens == 2048 and recipe.instruct.stop_at_newline
    assert recipe.instruct.system_prompt is None
    assert recipe.respond is not None and recipe.respond.temperature == 0
    assert recipe.tag is not None and recipe.tag.temperature == 0
    assert recipe.dedup is not None and recipe.dedup.threshold == 0.05
    assert recipe.extend is None
    assert recipe.filter == load_filter(f"{name}-300k")
    assert recipe.filter.top == Top(by="response_length", n=300_000)


STEERING = ["code", "math", "multilingual", "translation"]


@pytest.mark.parametrize("name", STEERING)
def test_a_recipe_that_steers_says_who_writes_in_several_ways(name: str) -> None:
    recipe, demo = load_recipe(name), load_recipe("demo")
    assert recipe.rows == 1000 and recipe.steer is not None
    assert len(recipe.steer.prompts) >= 2 and len(recipe.steer.variables) >= 2
    given = {one.id for one in steered(recipe.steer, recipe.seed, np.arange(recipe.rows))}
    assert len(given) > 60
    plan, plain = make_plan(recipe), make_plan(demo)
    assert [step.name for step in plan.steps] == [step.name for step in plain.steps]
    assert recipe.models == demo.models
    assert ("steer_language" in plan.schema.names) is (name in {"multilingual", "translation"})
    assert load_recipe(name, overrides={"steer": None, "language.keep": None}).steer is None


def test_the_multilingual_recipe_checks_itself() -> None:
    recipe = load_recipe("multilingual")
    assert recipe.language is not None and recipe.language.keep == "steered"
    with pytest.raises(RecipeError, match="needs languages to steer to"):
        make_plan(load_recipe("multilingual", overrides={"steer": None}))


def test_the_air_filter_keeps_what_the_published_rules_keep() -> None:
    assert kept("air-300k", scored=True) == AIR
    assert kept("air-300k", scored=False) == AIR_WITHOUT_REWARD
    assert kept("air-300k", scored=True, n=3) == [0, 1, 2]
    assert kept("air-300k", scored=True, n=5) == [0, 1, 2, 3, 17]


def test_the_pro_filter_keeps_what_the_published_rules_keep() -> None:
    assert kept("pro-300k", scored=True) == PRO
    assert kept("pro-300k", scored=False) == PRO_WITHOUT_REWARD
    assert kept("pro-300k", scored=True, n=2) == [9, 16]
