"""What a build would cost: on the shipped recipes and cards, and by what an earlier run measured."""

from __future__ import annotations

import json
from typing import Any

import pytest

from magpie.plan import make_plan
from magpie.plan.costs import Costs, plan_costs
from magpie.plan.phase_costs import Measured
from magpie.recipe.loading import load_recipe
from magpie.sizing.cards import find_card
from magpie.sizing.measured import correction, published
from magpie.sizing.shapes import shape_of


def costs(name: str, gpu: str | None, overrides: dict[str, Any] | None = None, **options: Any) -> Costs:
    plan = make_plan(load_recipe(name, engine="vllm", overrides=overrides))
    return plan_costs(plan, None if gpu is None else find_card(gpu), **options)


def test_air_on_four_a100_beside_what_was_published() -> None:
    air = costs("air", "a100-80gb", gpus=4, price=1.75)
    assert air.published is not None and air.published.gpu_hours == pytest.approx(206.2)
    instruct, respond = air.gpu_hours_of("instruct"), air.gpu_hours_of("respond")
    assert instruct is not None and respond is not None
    # aiconfigurator's 10,800 tokens/s make 3 million responses of 430 tokens in 33 hours.
    assert respond == pytest.approx(3e6 * 430 / 10_800 / 3600, rel=0.3)
    assert instruct < 0.1 * respond
    assert air.wall_hours == pytest.approx(air.gpu_hours / 4, rel=0.05)
    assert air.kept == 300_000 and "published" in air.kept_source
    assert air.per_thousand(air.kept) == pytest.approx(10 * (air.per_thousand(air.rows) or 0))
    assert air.unknown == () and not [phase.problem for phase in air.phases if phase.problem]


def test_pro_on_sixteen_h100_has_four_engines() -> None:
    pro = costs("pro", "h100-80gb", gpus=16)
    first = pro.phases[0]
    assert first.fit is not None
    assert (first.fit.tensor_parallel, first.smallest, first.engines) == (4, 4, 4)
    assert pro.kept == 300_000 and pro.published is not None
    assert pro.published.gpu_hours == pytest.approx(614)


def test_a_model_that_does_not_fit_is_planned_with_the_split_that_does() -> None:
    pro = costs("pro", "h200", {"models.generator.tensor_parallel": 1}, gpus=4)
    first = pro.phases[0]
    assert first.problem == "does not fit with tensor_parallel 1; planned with 2"
    assert first.fit is not None and first.fit.fits and first.engines == 2


def test_too_few_gpus_are_said_and_no_time_is_made_up() -> None:
    pro = costs("pro", "a100-80gb", gpus=2)
    assert pro.phases[0].problem == "one engine needs 4 GPUs and there are 2"
    assert pro.phases[0].wall_hours is None and pro.phases[0].name in pro.unknown
    assert pro.per_thousand(pro.rows) is None


def test_more_gpus_take_less_time_and_the_same_work() -> None:
    one, eight = (costs("air", "h100-80gb", gpus=gpus) for gpus in (1, 8))
    assert one.gpu_hours == pytest.approx(eight.gpu_hours)
    assert 7.5 < one.wall_hours / eight.wall_hours < 8


def test_fp8_is_read_and_calculated_faster_from_hopper_on() -> None:
    def respond(name: str, gpu: str) -> float:
        return costs("air-apache", gpu, {"models.generator.model": name}).gpu_hours_of("respond") or 0

    assert respond("Qwen/Qwen3-8B-FP8", "h100-80gb") < 0.9 * respond("Qwen/Qwen3-8B", "h100-80gb")


def test_a_model_of_unknown_shape_is_said_to_be_unknown() -> None:
    found = costs("air", "h100-80gb", {"models.generator.model": "nobody/nothing"})
    assert found.phases[0].problem is not None and "config.json" in found.phases[0].problem
    assert found.phases[0].name in found.unknown
    assert found.licences[0].licence is None and "not known" in found.licences[0].text


def test_without_a_gpu_times_are_unknown_or_measured() -> None:
    plain = costs("demo", None)
    assert plain.wall_hours == 0 and plain.unknown and plain.per_thousand(plain.rows) is None
    measured = Measured(
        run="runs/small",
        rows=64,
        shares={"instruct": 1.0, "respond": 0.5},
        tokens={"respond": 100.0},
        seconds={phase.name: 36.0 for phase in plain.phases},
        kept=0.25,
    )
    known = costs("demo", None, measured=measured)
    assert known.unknown == () and known.kept == 64
    assert known.wall_hours == pytest.approx(len(known.phases) * 36 * 256 / 64 / 3600)
    respond = next(step for phase in known.phases for step in phase.steps if step.name == "respond")
    assert respond.rows == 128 and respond.tokens_written == pytest.approx(12_800)


def test_what_a_smaller_run_says_is_taken_on_a_gpu_too() -> None:
    measured = Measured("runs/sample", 2000, {"respond": 0.4, "baseline": 0.4}, {}, {}, 0.07)
    full, less = costs("air", "a100-80gb"), costs("air", "a100-80gb", measured=measured)
    assert less.gpu_hours_of("respond") == pytest.approx(0.4 * (full.gpu_hours_of("respond") or 0))
    assert less.kept == pytest.approx(210_000) and "runs/sample" in less.kept_source


def test_what_the_recipe_sets_is_planned_with() -> None:
    found = costs("air", "a100-80gb", {"models.generator.slots": 64})
    assert found.phases[0].fit is not None and found.phases[0].fit.slots == 64


@pytest.mark.parametrize("name", ["air", "pro"])
def test_the_licence_of_the_generator_is_said(name: str) -> None:
    (licensed,) = costs(name, "h100-80gb").licences
    assert licensed.free is False and "may only improve Llama 3" in licensed.text


def test_the_plan_is_json() -> None:
    whole = json.loads(json.dumps(costs("pro", "b200", gpus=8, price=4).to_json()))
    assert whole["phases"][0]["fit"]["slots"] % 8 == 0
    assert whole["dollars_per_1000"]["kept"] > whole["dollars_per_1000"]["raw"] > 0
    assert whole["published"]["hours"] == {"instruct": 3.5, "respond": 150}


def test_a_measured_run_corrects_the_roofline(tmp_path: Any) -> None:
    from magpie.recipe import Model
    from magpie.sizing.roofline import Request, requests_per_second

    shape = shape_of(Model(model="meta-llama/Meta-Llama-3-8B-Instruct"))
    assert shape is not None
    card = find_card("h100-80gb")
    speed = requests_per_second(shape, card, Request(45, 430), 512) * 430
    run = {
        "card": "h100-80gb", "parameters": 8.03e9, "tensor_parallel": 1, "slots": 512, "prompt": 45, "output": 430,
        "tokens_per_second": 0.8 * speed, "date": "2026-11-26",
    }  # fmt: skip
    (tmp_path / "gpu.json").write_text(json.dumps({"throughput": [{}, run]}))
    (tmp_path / "other.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    found = correction(shape, card, 1, tmp_path)
    assert found is not None and found.factor == pytest.approx(0.8) and "gpu.json, 2026-11-26" in found.source
    assert correction(shape, card, 2, tmp_path) is None
    assert correction(shape, find_card("h200"), 1, tmp_path) is None
    # A short run spends part of its time on its longest row, which a plan counts apart.
    (tmp_path / "gpu.json").write_text(json.dumps({"throughput": [run | {"rows": 2048}]}))
    short = correction(shape, card, 1, tmp_path)
    assert short is not None and 0.85 < short.factor < 1.5
    (tmp_path / "gpu.json").write_text(json.dumps({"throughput": [run | {"rows": 10_000_000}]}))
    long = correction(shape, card, 1, tmp_path)
    assert long is not None and long.factor == pytest.approx(0.8, rel=0.01)


def test_published_runs_are_found_by_recipe_and_by_filter() -> None:
    by_filter = published(filter="pro-300k")
    assert by_filter is not None and by_filter.recipe == "pro" and by_filter.kept == 0.3
    assert published(recipe="demo") is None and published() is None


def test_a_server_has_its_own_speed() -> None:
    server = {
        "models.generator.engine": "server",
        "models.generator.server": {"url": "http://127.0.0.1:8000/v1"},
    }
    found = costs("air", "h100-80gb", server)
    assert found.phases[0].problem == "engine server loads no weights here: its speed is not planned"
    assert found.phases[0].wall_hours is None


def test_no_gpu_hours_are_planned_for_a_model_that_runs_on_the_cpu() -> None:
    found = costs("air", "h100-80gb", {"models.generator.device": "cpu"})
    assert found.phases[0].problem == "runs on the CPU: its speed is not planned"
    assert found.phases[0].wall_hours is None
