"""The benchmarks that need no model run, and end in the line that machines read. What they measure is not asserted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import magpie
from benchmarks.fleet import simulate
from benchmarks.pipelining import (
    A100,
    AIR,
    ALONE,
    CALM,
    PUBLISHED,
    SLOTS,
    lengths,
    loop_seconds,
    step_seconds,
)
from benchmarks.recording import planned_model
from magpie.engines import open_engine
from magpie.engines.base import Engine
from magpie.execution.local import LocalExecutor
from magpie.recipe import Model


def last_line(name: str, *options: str) -> dict[str, Any]:
    """The JSON object that a benchmark ends in."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", *options]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=300)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_overhead_ends_in_one_json_object() -> None:
    found = last_line("overhead", "--rows", "300", "--no-language")
    assert found["benchmark"] == "overhead"
    assert found["rows"] == 300
    assert found["completions"] > 600
    assert {"ms_per_completion", "rows_per_second", "engine_share"} <= found.keys()


def test_dedup_ends_in_one_json_object() -> None:
    sizes = ["--rows", "3000", "--many", "9000", "--texts", "0"]
    found = last_line("dedup", *sizes)
    assert found["benchmark"] == "dedup"
    assert found["same_pairs"] is True
    assert found["recall"] > 0.98
    assert {"exact_ratio", "approximate_ratio", "pairs", "flat_seconds"} <= found.keys()


def test_filter_ends_in_one_json_object() -> None:
    found = last_line("filter", "--rows", "3000")
    assert (found["benchmark"], found["rows"], found["rules"]) == ("filter", 3000, 6)
    assert found["kept"] + sum(found["lost"].values()) == 3000
    assert {"seconds", "peak_mb"} <= found.keys()


def test_memory_ends_in_one_json_object() -> None:
    found = last_line("memory", "--rows", "200")
    assert (found["benchmark"], found["rows"], found["replicas"]) == ("memory", 200, 0)
    assert {"rows_per_second", "peak_mb", "resume_seconds", "verify_seconds"} <= found.keys()


def test_rouge_ends_in_one_json_object() -> None:
    found = last_line("rouge", "--rows", "60", "--published", "300")
    assert (found["benchmark"], found["rows"], found["same_decisions"]) == ("rouge", 60, True)
    assert found["max_difference"] < 1e-12
    assert {"ratio", "seconds_52k", "peak_mb"} <= found.keys()


def test_export_ends_in_one_json_object() -> None:
    found = last_line("export", "--rows", "3000")
    assert (found["benchmark"], found["rows"]) == ("export", 3000)
    assert {"rows_per_second", "peak_mb", "parquet_seconds", "shuffled_seconds"} <= found.keys()


def test_an_engine_that_is_lent_to_a_build_is_the_one_that_it_asks_for(tmp_path: Path) -> None:
    recipe = magpie.load_recipe("demo", engine="scripted", rows=16)
    wanted: list[Model] = []

    async def opener(model: Model) -> Engine:
        wanted.append(model)
        return await open_engine(model)

    magpie.build(recipe, tmp_path / "run", executor=LocalExecutor(engines=opener))
    assert wanted == [planned_model(recipe)]


def test_the_simulated_loop_takes_the_published_hours() -> None:
    """What a build is compared with: its lengths are found by these hours."""
    hours = [seconds / ALONE * AIR / 3600 for seconds in loop_seconds(lengths(ALONE))]
    assert hours == pytest.approx(PUBLISHED, rel=0.03)


def test_a_simulated_build_is_no_faster_than_full_slots_allow_and_outlives_its_engines() -> None:
    tokens = lengths(2000, **CALM)
    done = list[int]()
    outcome = simulate(A100, 2, tokens, shard_rows=30, kill_every=40.0, on_rows=done.append)
    least = sum(int(of_step.sum()) for of_step in tokens) * step_seconds(SLOTS) / SLOTS / 2
    assert sum(done) == outcome.rows == 2000
    assert outcome.killed >= 1 and outcome.seconds > least
    assert 0 < outcome.slots_used <= 1 and max(outcome.running) == SLOTS
