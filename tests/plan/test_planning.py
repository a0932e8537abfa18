"""Planning: which steps share a phase, what is pushed down, and what is refused before anything is loaded."""

from typing import Any

import pytest
from builds import small_recipe

from magpie.engines import find_engine
from magpie.engines.gpus import built_for_gpus
from magpie.errors import FilterError, RecipeError
from magpie.plan import Plan, make_plan
from magpie.recipe import Dedup
from magpie.recipe.loading import load_recipe
from magpie.runs.run import Run
from magpie.steps.dedup import DedupStep
from magpie.storage import MemoryStorage


def phases(plan: Plan) -> list[str]:
    return [phase.name for phase in plan.phases]


def test_neighbours_on_one_model_share_a_phase_and_global_steps_are_barriers() -> None:
    assert phases(make_plan(load_recipe("demo"))) == [
        "instruct → clean → language",
        "embed",
        "dedup",
        "tag → prefilter → respond → extend",
        "filter",
    ]


def test_a_judge_of_its_own_splits_the_phase() -> None:
    assert phases(make_plan(load_recipe("pro"))) == [
        "instruct → clean → language",
        "embed",
        "dedup",
        "tag → prefilter",
        "respond",
        "baseline",
        "reward",
        "guard",
        "filter",
    ]


def test_without_the_global_steps_everything_streams_through_one_phase() -> None:
    plan = make_plan(small_recipe(embed=None, dedup=None, filter=None))
    assert phases(plan) == ["instruct → clean → tag → respond → extend"]


@pytest.mark.parametrize(
    ("changes", "pushed"),
    [
        ({}, ["quality", "medium or harder"]),
        ({"respond": {"rows": "all"}}, []),
        ({"respond": None, "extend": None, "filter": {"rules": [{"name": "a", "where": "index > 3"}]}}, []),
        ({"filter": {"rules": [{"name": "a", "where": "response_length > 3"}]}}, []),
        ({"filter": {"rules": [{"name": "a", "where": "index > 3 OR response_length > 3"}]}}, []),
    ],
)
def test_only_rules_that_need_no_response_are_pushed_down(changes: dict[str, Any], pushed: list[str]) -> None:
    plan = make_plan(small_recipe(**changes))
    early = [run_step.step.settings["rules"] for run_step in plan.steps if run_step.name == "prefilter"]
    assert [name for rules in early for name, _ in rules] == pushed
    late = next(run_step.step.settings["rules"] for run_step in plan.steps if run_step.name == "filter")
    assert not set(pushed) & {name for name, _ in late}


def test_a_filter_on_an_unknown_column_is_refused_with_the_nearest() -> None:
    rules = [{"name": "typo", "where": "input_qualty = 'good'"}]
    with pytest.raises(FilterError, match=r"typo.*input_qualty.*input_quality"):
        make_plan(small_recipe(filter={"rules": rules}))


def test_a_column_of_a_step_that_is_off_is_unknown() -> None:
    rules = [{"name": "late", "where": "turns > 1"}]
    with pytest.raises(FilterError, match="turns"):
        make_plan(small_recipe(extend=None, filter={"rules": rules}))


def test_shards_cover_every_row_once() -> None:
    plan = make_plan(small_recipe(rows=37))
    run = Run(MemoryStorage(), plan.recipe, plan.steps)
    assert run.shards == plan.recipe.shards == 3
    assert [row for shard in range(run.shards) for row in run.shard_range(shard)] == list(range(37))


def test_step_folders_are_numbered_in_order() -> None:
    folders = [run_step.folder for run_step in make_plan(small_recipe()).steps]
    assert folders[:3] == ["01-instruct", "02-clean", "03-embed"]
    assert folders == sorted(folders)


def test_roles_that_differ_in_their_prompts_alone_share_one_loaded_model() -> None:
    generator = {"model": "scripted"}
    shared = small_recipe(
        models={"generator": generator, "judge": generator | {"thinking": "off"}, "embedder": "scripted"}
    )
    own = small_recipe(
        models={"generator": generator, "judge": generator | {"slots": 7}, "embedder": "scripted"}
    )
    assert ["tag" in phase.name and "respond" in phase.name for phase in make_plan(shared).phases].count(True)
    assert not any("tag" in phase.name and "respond" in phase.name for phase in make_plan(own).phases)
    judge = next(run_step for run_step in make_plan(shared).steps if run_step.name == "tag")
    assert judge.step.uses is not None and judge.step.uses.model.thinking == "off"


def test_the_best_of_a_group_is_kept_once_the_judge_has_spoken() -> None:
    def names(**dedup: Any) -> list[str]:
        return [run_step.name for run_step in make_plan(small_recipe(dedup=dedup)).steps]

    assert names().index("dedup") < names().index("tag")
    assert names(keep="longest").index("dedup") < names(keep="longest").index("tag")
    assert names(keep="best_quality").index("tag") < names(keep="best_quality").index("dedup")
    for changes in ({"tag": None, "filter": None}, {"tag": {"tags": ["difficulty"]}, "filter": None}):
        with pytest.raises(RecipeError, match=r"best_quality.*`input_quality`, which nothing adds; switch"):
            make_plan(small_recipe(dedup={"keep": "best_quality"}, **changes))


def test_all_pairs_are_compared_as_long_as_that_takes_minutes() -> None:
    def searches(rows: int, **dedup: Any) -> tuple[str, str]:
        step = DedupStep.for_rows(Dedup(**dedup), rows)
        return step.pairs, step.nearest

    assert searches(100_000) == ("exact", "exact")
    assert searches(100_001) == ("exact", "approximate")
    assert searches(2_000_001) == ("approximate", "approximate")
    assert searches(10**9, method="exact", nearest="exact") == ("exact", "exact")
    assert searches(10, method="approximate") == ("approximate", "exact")


def test_evaluation_sets_are_looked_for_before_repeats() -> None:
    plan = make_plan(small_recipe(decontaminate={"files": "exam.jsonl"}))
    names = [run_step.name for run_step in plan.steps]
    assert names[names.index("embed") :][:3] == ["embed", "decontaminate", "dedup"]


def test_an_engine_that_stays_loaded_is_sized_for_the_longest_rows_of_its_phases() -> None:
    instruct, _, _, respond, *_ = make_plan(load_recipe("air")).phases
    assert instruct.model == respond.model and instruct.model is not None
    assert instruct.model.row_tokens == 475  # as published: 45 tokens of prompt, 430 of response
    set_by_hand = make_plan(load_recipe("air", overrides={"models.generator.row_tokens": 900}))
    assert set_by_hand.phases[0].model is not None and set_by_hand.phases[0].model.row_tokens == 900


@pytest.mark.parametrize(("engine", "refused"), [("vllm", True), ("transformers", False)])
def test_a_model_that_is_kept_to_the_cpu_is_refused_where_the_engine_is_built_for_gpus(
    monkeypatch: pytest.MonkeyPatch, engine: str, refused: bool
) -> None:
    if not find_engine(engine).is_installed:
        pytest.skip(f"{engine} is not installed")
    model = {"model": "demo", "engine": engine, "device": "cpu"}
    recipe = small_recipe(models={"generator": model, "judge": "generator", "embedder": "scripted"})
    make_plan(recipe)
    monkeypatch.setattr("magpie.plan.planning.built_for_gpus", lambda: True)
    if refused:
        with pytest.raises(RecipeError, match=r"`models.generator.device` is cpu.*built for GPUs"):
            make_plan(recipe)
    else:
        make_plan(recipe)


def test_the_build_of_torch_says_whether_engines_run_on_gpus() -> None:
    torch = pytest.importorskip("torch")
    assert built_for_gpus() == bool(torch.version.cuda or torch.version.hip)
