"""The recipes and filters that ship: all of them load, and the recipes have their published settings."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest

from magpie import shipped
from magpie.build import build
from magpie.chat.families import load_template
from magpie.data.instructions import read_instructions
from magpie.errors import RecipeError
from magpie.figures.status import status
from magpie.models import EMBEDDED, STAND_INS
from magpie.plan import make_plan
from magpie.recipe import Top
from magpie.recipe.loading import load_filter, load_recipe
from magpie.runs.run import Run
from magpie.runs.verify import verify
from magpie.steps import columns_of, steps_of
from magpie.steps.instruct import steered

ROOT = Path(__file__).parent.parent


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


@pytest.mark.parametrize("name", ["air", "pro"])
def test_air_and_pro_score_every_row_and_leave_no_rule_out_that_reads_a_score(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.reward is not None and recipe.reward.baseline is not None
    assert recipe.guard is not None and set(recipe.guard.of) == {"instruction", "response"}
    assert recipe.model("reward").model == "sfairXC/FsfairX-LLaMA3-RM-v0.1"
    assert recipe.model("guard").model == "meta-llama/Meta-Llama-Guard-2-8B"
    columns = columns_of(steps_of(recipe)).names
    assert {"instruct_reward", "base_reward", "reward_difference", "llama_guard", "language"} <= set(columns)
    # `dedup` has done what the one rule left out does for rows without it.
    (left_out,) = make_plan(recipe).skipped_rules
    assert left_out.startswith("no repeats, for rows without dedup")
    less = load_recipe(name, overrides={"reward": None, "guard": None})
    assert [step.name for step in steps_of(less)][-2:] == ["respond", "filter"]


@pytest.mark.parametrize("name", ["air-3.1", "pro-3.1"])
def test_the_recipes_of_llama_3_1_have_the_settings_of_its_family(name: str) -> None:
    recipe, template = load_recipe(name), load_template("llama3.1")
    generator = recipe.model("generator").model
    assert any(fnmatchcase(generator, pattern) for pattern in template.models)
    assert recipe == load_recipe(name, overrides=template.advice.settings())
    assert recipe.filter == load_filter("air-300k" if name.startswith("air") else "pro-300k")


def test_the_apache_recipe_is_air_by_models_that_ask_for_nothing() -> None:
    recipe, air = load_recipe("air-apache"), load_recipe("air")
    assert recipe.instruct == air.instruct and recipe.filter == air.filter and recipe.tag == air.tag
    assert (
        recipe.model("generator").thinking == "off" and recipe.reward == air.reward and recipe.guard is None
    )


@pytest.mark.parametrize("name", ["air", "pro"])
def test_make_runs_them_whole_on_a_laptop(name: str, tmp_path: Path) -> None:
    """What `make air MODEL=demo` would run, with the scripted engine in the place of the demo model."""
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    said = subprocess.run(
        ["make", "-n", name, "MODEL=demo"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    (line,) = (line for line in said.replace("\\\n", " ").splitlines() if "magpie build" in line)
    words = shlex.split(line)
    arguments = words[words.index("build") :]
    arguments[arguments.index("--out") + 1] = str(tmp_path / "run")
    command = [
        sys.executable,
        "-m",
        "magpie",
        *arguments,
        "--rows",
        "16",
        "--engine",
        "scripted",
        "--set",
        "shard_rows=8",
    ]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    run = Run.open(tmp_path / "run")
    assert {model.model for model in run.recipe.models.values()} <= {*EMBEDDED, *STAND_INS}
    assert status(run).finished and verify(run) == []
    assert {"reward", "guard", "baseline"} <= {step.name for step in run.steps}


def test_air_dpo_is_air_with_published_pairs_in_place_of_responses() -> None:
    recipe, air = load_recipe("air-dpo"), load_recipe("air")
    assert recipe.instruct == air.instruct and recipe.models["generator"] == air.models["generator"]
    assert (recipe.rows, recipe.tag, recipe.dedup) == (air.rows, air.tag, air.dedup)
    assert recipe.respond is None and recipe.reward is None and recipe.prefer is not None
    assert (recipe.prefer.responses, recipe.prefer.temperature, recipe.prefer.margin) == (5, 0.8, 0)
    assert recipe.model("reward").model == "sfairXC/FsfairX-LLaMA3-RM-v0.1"
    assert not recipe.model("reward").trust_remote_code
    assert recipe.filter == load_filter("dpo-100k")
    plan = make_plan(recipe)
    assert [step.name for step in plan.steps][-5:] == ["tag", "prefilter", "candidates", "prefer", "filter"]
    assert plan.skipped_rules == ("reward at least -5 (reads instruct_reward)",)


def test_demo_dpo_makes_pairs_with_nothing_but_the_embedded_models() -> None:
    recipe, demo = load_recipe("demo-dpo"), load_recipe("demo")
    assert recipe.models["generator"] == demo.models["generator"]
    assert recipe.models["embedder"] == demo.models["embedder"]
    assert recipe.models["reward"].model == "demo-reward"
    assert recipe.rows <= 48 and recipe.tag is None and recipe.respond is None
    assert recipe.prefer is not None and recipe.prefer.responses <= 4 and recipe.prefer.max_tokens <= 384
    names = [phase.name for phase in make_plan(recipe).phases]
    assert names[-3:] == ["prefilter → candidates", "prefer", "filter"]


STEERING = ["code", "math", "multilingual", "translation"]


@pytest.mark.parametrize("name", STEERING)
def test_a_recipe_that_steers_says_who_writes_in_several_ways(name: str) -> None:
    recipe, demo = load_recipe(name), load_recipe("demo")
    assert recipe.rows == 1000 and recipe.steer is not None
    assert len(recipe.steer.prompts) >= 2 and len(recipe.steer.variables) >= 2
    given = {one.id for one in steered(recipe.steer, recipe.seed, np.arange(recipe.rows))}
    assert len(given) > 60
    steps = steps_of(recipe)
    assert [step.name for step in steps] == [step.name for step in steps_of(demo)]
    assert recipe.models == demo.models
    assert ("steer_language" in columns_of(steps).names) is (name in {"multilingual", "translation"})
    assert load_recipe(name, overrides={"steer": None, "language.keep": None}).steer is None


def test_the_multilingual_recipe_checks_itself() -> None:
    recipe = load_recipe("multilingual")
    assert recipe.language is not None and recipe.language.keep == "steered"
    with pytest.raises(RecipeError, match="needs languages to steer to"):
        make_plan(load_recipe("multilingual", overrides={"steer": None}))


def test_the_full_demo_takes_every_step_and_needs_no_hub() -> None:
    recipe = load_recipe("demo-full")
    assert [step.name for step in make_plan(recipe).steps] == [
        "instruct", "clean", "pii", "language", "embed", "decontaminate", "dedup", "tag", "respond",
        "extend", "decontaminate_turns", "candidates", "baseline", "response_pii", "reward", "prefer", "guard",
        "filter",
    ]  # fmt: skip
    assert {model.model for model in recipe.models.values()} <= {*EMBEDDED, *STAND_INS}
    assert make_plan(recipe).skipped_rules == ()
    assert recipe.tag is not None and recipe.tag.times == 2


def test_the_full_demos_evaluation_set_lies_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    part = load_recipe("demo-full").decontaminate
    assert part is not None and part.files == (str(shipped.folder("recipes") / "demo-full-evaluation.jsonl"),)
    questions = read_instructions(part.files[0]).texts
    assert len(questions) >= 3 and all(len(text.split()) > part.ngram for text in questions)
    assert "demo-full-evaluation" not in shipped.names("recipes")


def test_the_full_demo_runs_from_end_to_end(tmp_path: Path) -> None:
    run = build("demo-full", tmp_path / "run", rows=24, engine="scripted", overrides={"filter": None})
    assert verify(run) == []
    written = run.dataset().column_names
    assert {"input_quality", "reward_difference", "chosen", "llama_guard", "min_neighbor_distance"} <= set(
        written
    )


def test_what_a_reward_model_and_a_guard_could_not_judge_is_counted(tmp_path: Path) -> None:
    run = build("demo-full", tmp_path / "run", rows=24, engine="scripted", overrides={"filter": None})
    found = {step.name: step for step in status(run).steps}
    assert found["reward"].outcomes == {"judged": found["reward"].rows_in}
    assert found["guard"].outcomes == {"not judged": found["guard"].rows_in}  # a scripted guard says anything
    assert run.dataset()[0]["guard_model"] == "scripted (demo-guard)"


def test_a_guard_of_what_is_not_there_is_refused() -> None:
    guard = {"guard": {"of": ["instruction", "chosen"]}, "models.guard": "demo-guard"}
    with pytest.raises(RecipeError, match="leave `chosen` out of it"):
        load_recipe("demo", overrides=guard)
    assert load_recipe("demo-dpo", overrides=guard).guard is not None
