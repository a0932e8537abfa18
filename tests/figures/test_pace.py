"""Measured beside planned, in the status of a run."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from magpie.build import build
from magpie.figures.pace import PLANNED, planned_rates
from magpie.figures.status import status
from magpie.figures.summary import summary
from magpie.plan import make_plan
from magpie.recipe.loading import load_recipe
from magpie.report.run_table import print_status
from magpie.runs.run import LOG
from magpie.sizing.cards import driver_names, find_card


def test_a_run_with_a_plan_shows_both(tmp_path: Path) -> None:
    run = build("demo", tmp_path / "run", rows=64, engine="scripted", overrides={"shard_rows": 32})
    assert status(run).paces == ()
    rates = {"instruct → clean → language": 1e6, "tag → prefilter → respond → extend": 2e6, "nosuch": 1.0}
    run.storage.append(LOG, json.dumps({"time": 1, "event": PLANNED, "rows_per_second": rates}) + "\n")
    first, second, none = status(run).paces
    assert (first.phase, first.planned, second.planned) == ("instruct → clean → language", 1e6, 2e6)
    assert first.measured is not None and first.measured > 0 and none.measured is None
    file = io.StringIO()
    print_status(status(run), Console(file=file, width=80))
    assert "planned, at most" in file.getvalue() and "1,000,000.0" in file.getvalue()
    assert "paces" not in summary(run, status(run))


def test_planned_rates_are_those_of_the_engines_there_are() -> None:
    plan, card = make_plan(load_recipe("pro", engine="vllm")), find_card("h100-80gb")
    one, sixteen = planned_rates(plan, card, gpus=None), planned_rates(plan, card, gpus=16)
    assert sixteen["respond"] == pytest.approx(4 * one["respond"], rel=0.01)
    assert sixteen["reward"] == pytest.approx(16 * one["reward"], rel=0.01)
    assert "dedup" not in one


def test_the_drivers_files_name_the_cards(tmp_path: Path) -> None:
    for number in ("0000:1b", "0000:1a"):
        (tmp_path / number).mkdir()
        (tmp_path / number / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 1\n")
    assert driver_names(tmp_path) == ["NVIDIA H100 80GB HBM3"] * 2
    assert driver_names(tmp_path / "none") == []
