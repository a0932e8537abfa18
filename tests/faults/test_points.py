"""A sample of the table of faults (`make faults`): one seeded point of some kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from points import Setting
from table import KINDS, Row, in_all, run_point, setting

SAMPLE = (
    "kill -9 of the driver",
    "rounds: kill -9 of the driver",
    "SIGUSR1",
    "a flipped bit",
)
SLOWER = ("S3: cut, then done",)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Setting, Path]]:
    for package in ("moto", "obstore"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    folder = tmp_path_factory.mktemp("faults")
    with setting(folder, SAMPLE + SLOWER, real_store=False) as (ready, _):
        yield ready, folder


@pytest.mark.parametrize("kind", [*SAMPLE, *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOWER)])
def test_nothing_is_lost(given: tuple[Setting, Path], kind: str) -> None:
    row = Row(kind)
    run_point(row, KINDS[kind][1], 5, *given)
    whole = in_all([row])
    assert whole["failures"] == []
    assert [whole[name] for name in ("points", "lost", "doubled", "corrupt", "processes_left")] == [
        1,
        0,
        0,
        0,
        0,
    ]
