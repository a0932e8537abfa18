"""What a run took, from a log that is written here: times add up, and the time between two builds counts for none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builds import small_recipe

import magpie
from magpie.figures.run_log import FIRST_STAGE
from magpie.figures.work import OTHER, work
from magpie.plan import make_plan


def logged(run: magpie.Run, events: list[tuple[float, dict[str, Any]]]) -> None:
    text = "".join(json.dumps({"time": time, **event}) + "\n" for time, event in events)
    (run.folder / "log.jsonl").write_text(text)


@pytest.fixture
def run(tmp_path: Path) -> magpie.Run:
    """A run of two builds, a week apart: 10 s and 20 s of loading, 40 s and 30 s of its first phase."""
    run = magpie.build(small_recipe(), tmp_path / "run")
    first = make_plan(run.recipe).phases[0].name
    rate = {"event": "planned", "gpus": 4, "rows_per_second": {first: 2.0}}
    shard = {"event": "shard", "step": "instruct", "rows": 16, "rejected": 0}
    week = 7 * 86_400.0
    logged(
        run,
        [
            (100, {"event": "doing", "what": FIRST_STAGE}),
            (110, {"event": "doing", "what": first}),
            (130, {**shard, "shard": 0, "tokens": 1_000}),
            (150, {**shard, "shard": 1, "tokens": 3_000}),
            (week, {"event": "doing", "what": FIRST_STAGE}),
            (week, rate),
            (week + 20, {"event": "doing", "what": first}),
            (week + 50, {**shard, "shard": 2, "tokens": 1_500}),
        ],
    )
    return run


def test_time_is_that_of_the_builds_and_of_their_phases(run: magpie.Run) -> None:
    found = work(run)
    assert (found.seconds, found.gpus, found.cost) == (100, 4, None)
    spent = {each.phase: each for each in found.spent}
    phase = make_plan(run.recipe).phases[0].name
    assert {name: each.seconds for name, each in spent.items()} == {OTHER: 30, phase: 70}
    assert spent[phase].points[-1] == (100, 70)
    assert all(own <= time for each in found.spent for time, own in each.points)
    assert (spent[phase].planned, spent[OTHER].planned) == (96 / 2.0, None)


def test_cost_is_that_of_all_gpus_for_all_the_time(run: magpie.Run) -> None:
    found = work(run, price=2.5)
    assert found.gpu_hours == pytest.approx(4 * 100 / 3600)
    assert found.cost == pytest.approx(2.5 * 4 * 100 / 3600)


def test_speeds_leave_out_the_week_between_and_count_each_token_once(run: magpie.Run) -> None:
    (speed,) = work(run).speeds
    assert speed.tokens == 1_000 + 2_000 + 1_500
    assert speed.points[-1][0] < 110
    parts = list(zip(speed.points[::2], speed.points[1::2], strict=True))
    assert sum(rate * (end - start) for (start, rate), (end, _) in parts) == pytest.approx(speed.tokens)
    # The second build loads for 20 s and writes for 30.
    assert [(end - start, rate) for (start, rate), (end, _) in parts] == [(20, 50), (20, 100), (30, 50)]


def test_a_machine_without_a_gpu_costs_its_own_hours(tmp_path: Path) -> None:
    run = magpie.build(small_recipe(), tmp_path / "run")
    found = work(run, price=0.5)
    assert found.gpus is None and found.gpu_hours is None and found.seconds is not None
    assert found.cost == pytest.approx(0.5 * found.seconds / 3600)


@pytest.mark.parametrize(
    "line",
    [
        '{"time": 1e999, "event": "doing", "what": "instruct"}',
        '{"time": NaN, "event": "doing"}',
        '{"time": 1e20, "event": "doing", "what": "instruct"}',
        '{"time": -5, "event": "doing"}',
        '{"time": true, "event": "doing"}',
        '{"time": 5, "event": "shard", "step": ["instruct"]}',
        '{"time": 5, "event": "shard", "step": "instruct", "rows": "many"}',
        '{"time": 5, "event": "shard", "step": "instruct", "tokens": 1e999}',
        '{"time": 5, "event": {"a": 1}, "what": []}',
        "[" * 100_000,
        "[]",
        "null",
    ],
)
def test_a_line_that_no_build_writes_is_no_event(run: magpie.Run, line: str) -> None:
    log = run.folder / "log.jsonl"
    before, text = work(run, price=2.0), log.read_text()
    log.write_text(f"{line}\n{text}{line}\n")
    assert work(run, price=2.0) == before
    [found] = magpie.list_runs(run.folder)
    # Of a log only the end is looked at.
    assert len(line) > 4_000 or found.changed == json.loads(text.splitlines()[-1])["time"]


@pytest.mark.parametrize(
    "planned", [{"gpus": "x"}, {"rows_per_second": {"instruct": "fast", "embed": 0}}, {}]
)
def test_a_plan_in_the_log_that_is_none_counts_for_nothing(run: magpie.Run, planned: dict[str, Any]) -> None:
    with (run.folder / "log.jsonl").open("a") as log:
        log.write(json.dumps({"time": 1e9, "event": "planned", **planned}) + "\n")
    found = work(run, price=1.0)
    assert (found.gpus, found.paces) == (None, ())
