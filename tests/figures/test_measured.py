"""What a run says of the next one, from its shards and its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from magpie.api import plan_costs
from magpie.build import build
from magpie.errors import RunError
from magpie.figures.measured import measured_by
from magpie.figures.status import status


def test_a_small_run_says_what_a_large_one_takes(tmp_path: Path) -> None:
    run = build("demo", tmp_path / "run", rows=96, engine="scripted", overrides={"shard_rows": 32})
    measured, steps = measured_by(run), {step.name: step for step in status(run).steps}
    assert measured.shares["instruct"] == 1
    assert measured.shares["respond"] == steps["respond"].rows_in / 96 < 1
    assert measured.tokens["respond"] == (steps["respond"].tokens or 0) / steps["respond"].rows_in
    assert measured.kept == (status(run).kept or 0) / 96
    assert set(measured.seconds) >= {"instruct → clean → language", "tag → prefilter → respond → extend"}
    planned = plan_costs("demo", like=run, overrides={"rows": 9600})
    assert planned.unknown == () and planned.kept == pytest.approx(100 * (status(run).kept or 0))


def test_a_run_that_has_not_begun_says_nothing(tmp_path: Path) -> None:
    run = build("demo", tmp_path / "run", rows=8, engine="scripted", stop_after="instruct")
    assert set(measured_by(run).shares) == {"instruct"}
    for path in (tmp_path / "run" / "steps").rglob("*.parquet"):
        path.unlink()
    with pytest.raises(RunError, match="has no shard yet"):
        measured_by(run)
