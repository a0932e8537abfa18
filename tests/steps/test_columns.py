"""What columns say of themselves, and the columns that stand in no shard."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from builds import dataset_paths, scripted, small_recipe

from magpie.build import build
from magpie.recipe.loading import load_recipe
from magpie.runs.provenance import Provenance
from magpie.runs.run import Run
from magpie.steps.base import is_inner, meaning_of, published_name

SECOND_JUDGE = {"models.other": {"model": "other"}, "tag.second_judge": "other"}
STEER = {
    "prompts": {"ask": "You talk to {persona} about {domain}.", "plain": "You talk to {persona}."},
    "variables": {"persona": {"child": "a child", "cook": "a cook"}, "domain": ["soup", "bread"]},
}


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(small_recipe(steer=STEER), tmp_path_factory.mktemp("runs") / "steered")


@pytest.mark.parametrize("name", ["demo", "demo-full", "demo-dpo", "code", "pro"])
def test_every_column_of_a_shipped_recipe_says_what_it_means(tmp_path: Path, name: str) -> None:
    overrides = SECOND_JUDGE if name == "code" else {}
    recipe = load_recipe(name, rows=2, engine="scripted", overrides=overrides)
    run = Run.open(build(recipe, tmp_path / "run", stop_after="instruct").folder)
    silent = [field.name for step in run.steps for field in step.step.adds if not meaning_of(field)]
    assert silent == []


def test_the_second_judges_columns_are_marked_as_the_firsts() -> None:
    from magpie.steps import steps_of

    recipe = load_recipe("demo", engine="scripted", overrides=SECOND_JUDGE)
    first, second = (step.adds for step in steps_of(recipe) if step.section == "tag")
    assert [is_inner(field) for field in first] == [is_inner(field) for field in second]
    assert published_name(first.field("difficulty")) == "difficulty"
    assert published_name(second.field("second_difficulty")) is None
    assert meaning_of(second.field("second_difficulty")).startswith("By the second judge. How hard")


def test_a_steered_run_has_a_column_for_each_variable(steered: Run) -> None:
    rows = pq.read_table(dataset_paths(steered)[0]).to_pylist()
    assert {row["steer_persona"] for row in rows} == {"child", "cook"}
    assert {row["steer_domain"] for row in rows} == {"soup", "bread", None}
    for row in rows:
        values = dict(part.split("=") for part in row["steer_id"].split(";")[1:])
        assert values == {
            name: row[f"steer_{name}"] for name in ("persona", "domain") if row[f"steer_{name}"]
        }
    # They stand in no shard, so that a run of an earlier version has them too.
    assert not {"steer_persona", "steer_domain"} & set(steered.table().column_names)


def test_the_system_prompt_and_the_engine_follow_from_the_recipe(steered: Run, tmp_path: Path) -> None:
    rows = pq.read_table(dataset_paths(steered)[0])
    provenance = Provenance.of(steered)
    derived = provenance.derive(rows, ["instruct_system_prompt", "generator_engine"])
    texts = {"child": "a child", "cook": "a cook"}
    for row, prompt in zip(rows.to_pylist(), derived["instruct_system_prompt"].to_pylist(), strict=True):
        about = f" about {row['steer_domain']}" if row["steer_domain"] else ""
        assert prompt == f"You talk to {texts[row['steer_persona']]}{about}."
    assert set(derived["generator_engine"].to_pylist()) == {"scripted"}
    again = Provenance.parse(provenance.to_json())
    assert again is not None and again.recipe == steered.recipe and again.engines == provenance.engines
    plain = build(small_recipe(instruct={"system_prompt": "Ask of birds."}, extend=None), tmp_path / "plain")
    table = pq.read_table(dataset_paths(plain)[0])
    made = Provenance.of(plain).derive(table, ["instruct_system_prompt"])["instruct_system_prompt"]
    assert set(made.to_pylist()) == {"Ask of birds."}
    assert "instruct_system_prompt" not in table.column_names


def test_a_manifest_that_says_nothing_or_nonsense_of_its_rows_is_no_provenance() -> None:
    for about in ({}, {"recipe": 3}, {"recipe": {"name": "x"}, "engines": {}}, {"recipe": {}, "engines": 1}):
        assert Provenance.parse(about) is None


def test_rows_of_the_scripted_engine_say_that_no_model_wrote_them(tmp_path: Path) -> None:
    models = scripted() | {"judge": {"model": "org/large-model"}}
    run = build(small_recipe(models=models), tmp_path / "run")
    row = pq.read_table(dataset_paths(run)[0]).to_pylist()[0]
    assert (row["generator"], row["judge"]) == ("scripted", "scripted (org/large-model)")


def test_an_address_of_a_server_does_not_travel_with_a_dataset(steered: Run) -> None:
    models = {"generator": {"model": "m", "engine": "server", "server": {"url": "http://inside:8000/v1"}}}
    recipe = load_recipe("demo", overrides={"models.generator": models["generator"]})
    text = str(Provenance(recipe, (), {}).to_json())
    assert "inside" not in text and "'m'" in text
    assert Provenance.parse(Provenance(recipe, (), {}).to_json()) is not None
