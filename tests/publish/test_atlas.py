"""Rows in Embedding Atlas: which they are, where they lie, and that it answers this machine and nobody else."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import small_recipe
from typed import typed

import magpie
from magpie import api
from magpie.errors import RunError
from magpie.publish import atlas
from magpie.publish.atlas_rows import NEAREST, NEIGHBORS, STATE, X, Y

needs_atlas = pytest.mark.skipif(
    find_spec("embedding_atlas") is None,
    reason="Embedding Atlas is not installed; pip install 'magpie-synth[view]'",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> magpie.Run:
    return magpie.build(small_recipe(), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(autouse=True)
def without_tsne(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes seconds, and has tests of its own."""
    monkeypatch.setattr("magpie.figures.coverage_map.find_spec", lambda name: None)


def test_a_run_is_shown_with_its_own_vectors_and_its_rejected_rows(run: magpie.Run) -> None:
    rows = api.atlas_rows(run)
    held = run.table(["embedding", "difficulty"]).to_pylist()
    held = [row for row in held if row["embedding"] is not None]
    assert rows.of == rows.table.num_rows == len(held)
    assert rows.table["id"].to_pylist() == [row["id"] for row in held]
    assert rows.table[STATE].to_pylist() == [row["rejected"] or "kept" for row in held]
    assert rows.table["difficulty"].to_pylist() == [row["difficulty"] for row in held]
    assert np.isfinite(rows.table[X].to_numpy()).all() and np.isfinite(rows.table[Y].to_numpy()).all()
    vectors = np.array([row["embedding"] for row in held], np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2)
    np.fill_diagonal(table, np.inf)
    for number, nearest in enumerate(rows.table[NEAREST].to_pylist()):
        assert len(set(nearest["ids"])) == NEIGHBORS and number not in nearest["ids"]
        assert nearest["distances"] == pytest.approx(sorted(table[number])[:NEIGHBORS], abs=1e-5)
        assert [table[number, other] for other in nearest["ids"]] == pytest.approx(
            nearest["distances"], abs=1e-5
        )


def test_a_sample_says_of_how_many_and_is_the_same_again(run: magpie.Run) -> None:
    some = api.atlas_rows(run, most=20, seed=3)
    assert some.table.num_rows == 20 < some.of
    assert some.table.equals(api.atlas_rows(run.folder, most=20, seed=3).table)


def test_a_dataset_gets_vectors(run: magpie.Run) -> None:
    rows = api.atlas_rows(run.folder / "dataset", embedder="scripted")
    assert rows.table.num_rows == run.dataset().num_rows
    assert {"instruction", "response", "difficulty", X, Y, NEAREST} <= set(rows.table.column_names)


def test_texts_as_polars_writes_them_are_shown(tmp_path: Path) -> None:
    texts = pa.array(["Why is the sky blue?", "How do wrens sing?", "What is tea?"], pa.large_string())
    pq.write_table(pa.table({"instruction": texts, "response": texts}), tmp_path / "rows.parquet")
    rows = api.atlas_rows(tmp_path / "rows.parquet", embedder="scripted")
    assert rows.table["response"].to_pylist() == texts.to_pylist()


def test_without_the_package_it_says_what_to_install(
    run: magpie.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atlas, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"pip install 'magpie-synth\[view\]'"):
        atlas.check_installed()


@pytest.fixture
def address(run: magpie.Run) -> Iterator[str]:
    """Where the command serves the run."""
    words = [sys.executable, "-m", "magpie", "view", str(run.folder), "--port", "0", "--sample", "25"]
    serving = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"})
    try:
        assert serving.stdout is not None
        line = serving.stdout.readline()
        assert line.startswith("25 of ") and " rows; the map is " in line
        yield line.split()[-1]
        serving.send_signal(signal.SIGINT)
        assert serving.wait(60) == 0
    finally:
        serving.kill()
        serving.communicate()


def asked(address: str, path: str, *, host: str | None = None) -> bytes:
    request = urllib.request.Request(address + path, headers={} if host is None else {"Host": host})
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: bytes = answer.read()
        return content


@needs_atlas
def test_it_answers_on_loopback_and_to_no_other_name(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    assert b"<script" in asked(address, "/")
    props = json.loads(asked(address, "/data/metadata.json"))["props"]
    assert props["data"] == {
        "id": "row",
        "projection": {"x": X, "y": Y},
        "text": "instruction",
        "neighbors": NEAREST,
    }
    rows = pq.read_table(io.BytesIO(asked(address, "/data/dataset.parquet")))
    assert rows.num_rows == 25 and rows["row"].to_pylist() == list(range(25))
    with pytest.raises(urllib.error.HTTPError, match="400"):
        asked(address, "/", host="elsewhere.example")


@needs_atlas
def test_it_is_exported_whole_for_a_space(run: magpie.Run, tmp_path: Path) -> None:
    folder = tmp_path / "space"
    printed = typed("view", run.folder, "--export", folder, "--sample", "25")
    assert printed.startswith("25 of ") and str(folder) in printed.replace("\n", "")
    assert pq.read_table(folder / "data/dataset.parquet").num_rows == 25
    assert json.loads((folder / "data/metadata.json").read_text())["isStatic"] is True
    assert (folder / "index.html").is_file()
    about = (folder / "README.md").read_text()
    assert about.startswith("---\ntitle: small\n") and "sdk: static" in about
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(RunError, match="not empty"):
        atlas.export(api.atlas_rows(run, most=5), folder)
