"""Rewards: the whole conversation is scored, trouble is recorded, and a build puts the scorer in its place."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from builds import small_recipe
from recording import SCRIPTED, TRANSCRIPT, base_rows, run

import magpie
from magpie.engines.base import Score, Scorer
from magpie.engines.scripted import ScriptedScorer
from magpie.errors import RecipeError
from magpie.plan import make_plan
from magpie.recipe import Baseline, Recipe, Reward, Script
from magpie.steps.reward import RewardStep

MODELS = {
    "generator": "scripted", "judge": "generator", "embedder": "scripted", "reward": "scripted", "guard": "scripted",
}  # fmt: skip


def scored(rows: Any, scorer: Scorer) -> Any:
    return run(RewardStep(Reward(), SCRIPTED), rows, scorer)


def test_a_reward_is_that_of_instruction_and_response_together() -> None:
    rows = base_rows(0, 3, out=[1], instruction=["a?", "b?", "c?"], response=["A", "B", "C"])
    scorer = ScriptedScorer()
    table = scored(rows, scorer)
    whole = TRANSCRIPT.ids(["c?", "C"])
    assert table["instruct_reward"].to_pylist()[1] is None
    assert table["instruct_reward"].to_pylist()[2] == pytest.approx(asyncio.run(scorer.score(whole)).value)
    assert table["reward_error"].null_count == 3


def test_what_cannot_be_scored_stays_in_with_the_reason() -> None:
    rows = base_rows(0, 2, instruction=["a?", "b?"], response=["A", "B" * 500])
    table = scored(rows, ScriptedScorer(context_length=200))
    assert table["instruct_reward"].is_null().to_pylist() == [False, True]
    assert "the context holds 200" in table["reward_error"].to_pylist()[1]
    failing = scored(rows, ScriptedScorer(Script(failure_rate=1.0)))
    assert failing["reward_error"].to_pylist() == ["scripted failure"] * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_reward_that_is_no_number_is_null_and_says_so(value: float) -> None:
    class Overflowing(ScriptedScorer):
        async def score(self, conversation: Sequence[int]) -> Score:
            return Score(value)

    table = scored(base_rows(0, 1, instruction=["a?"], response=["A"]), Overflowing())
    assert table["instruct_reward"].to_pylist() == [None]
    assert table["reward_error"].to_pylist() == [f"the reward is {value}"]


def test_what_the_base_model_wrote_is_taken_off() -> None:
    asked, scorer = ["a?", "b?", "c?"], ScriptedScorer()
    rows = base_rows(0, 3, out=[2], instruction=asked, response=["A", "B", "C"])
    rows = rows.append_column("base_response", pa.array(["x", None, "z"], pa.string()))
    table = run(RewardStep(Reward(baseline=Baseline()), SCRIPTED), rows, scorer)
    own, base = (asyncio.run(scorer.score(TRANSCRIPT.ids(["a?", text]))).value for text in ("A", "x"))
    assert own is not None
    assert base is not None
    assert table["base_reward"].to_pylist() == [pytest.approx(base), None, None]
    assert table["reward_difference"].to_pylist() == [pytest.approx(own - base), None, None]
    assert table["instruct_reward"].is_null().to_pylist() == [False, False, True]
    assert table["reward_error"].to_pylist() == [None, "baseline: there is no answer", None]


def recipe(**changes: Any) -> Recipe:
    return small_recipe(models=MODELS, **({"reward": {}, "guard": {}} | changes))


def test_scoring_comes_after_the_answers_and_before_the_filter() -> None:
    plan = make_plan(recipe())
    names = [planned.name for planned in plan.steps]
    assert names[-5:] == ["respond", "extend", "reward", "guard", "filter"]
    assert [phase.name for phase in plan.phases if phase.scores] == ["reward"]


def test_the_base_model_answers_before_both_answers_are_scored(tmp_path: Path) -> None:
    models = MODELS | {"base": "scripted"}
    rules = [{"name": "above the base model's", "where": "reward_difference > 0"}]
    changes = {"reward": {"baseline": {}}, "filter": {"name": "above", "rules": rules}}
    built = small_recipe(models=models, **changes)
    assert [planned.name for planned in make_plan(built).steps][-3:] == ["baseline", "reward", "filter"]
    magpie.build(built, tmp_path / "run")
    kept = ds.dataset(tmp_path / "run" / "dataset").to_table().to_pylist()
    assert kept
    for row in kept:
        assert row["reward_difference"] == pytest.approx(
            row["instruct_reward"] - row["base_reward"], abs=1e-4
        )
        assert row["base_response"]


def test_one_folder_as_generator_and_reward_model_is_loaded_twice_over() -> None:
    plan = make_plan(recipe(reward={"model": "generator"}, guard=None))
    assert [phase.scores for phase in plan.phases if phase.needs_engine][-2:] == [False, True]


def test_a_build_scores_every_row_that_is_in_and_filters_by_it(tmp_path: Path) -> None:
    rules = [{"name": "good reward", "where": "instruct_reward >= 0"}]
    magpie.build(recipe(filter={"name": "rewarded", "rules": rules}), tmp_path / "run")
    kept = ds.dataset(tmp_path / "run" / "dataset").to_table().to_pylist()
    assert kept
    assert all(row["instruct_reward"] >= 0 for row in kept)
    assert all("not a verdict" in row["guard_error"] for row in kept)  # the scripted engine is no guard


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reward": {"model": "nobody"}}, "nobody"),
        ({"reward": {"baseline": {"model": "nobody"}}}, "`reward.baseline.model` is 'nobody'"),
        ({"respond": None, "extend": None, "guard": None, "filter": None}, "`reward` needs `respond`"),
        ({"respond": None, "extend": None, "reward": None, "filter": None}, "of: .instruction."),
        ({"guard": {"of": ["response", "response"]}}, "once"),
    ],
)
def test_a_recipe_that_cannot_be_scored_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        recipe(**changes)


def test_a_server_is_not_asked_for_rewards() -> None:
    served = MODELS | {
        "reward": {"model": "x", "engine": "server", "server": {"url": "http://127.0.0.1:1/v1"}}
    }
    with pytest.raises(RecipeError, match="engine server only writes"):
        make_plan(small_recipe(models=served, reward={}))
