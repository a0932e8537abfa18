"""The dataset of a run: written when the run is finished, anew when what it is made from changes."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from builds import dataset_paths, shard_path, small_recipe, tree

from magpie.build import build
from magpie.data import dataset
from magpie.data.dataset import MANIFEST
from magpie.errors import RunError
from magpie.figures.status import status
from magpie.runs.run import DATASET, Run
from magpie.runs.verify import verify


def test_a_full_last_file_counts_as_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "ROWS_PER_FILE", 20)
    top = {"name": "top", "top": {"by": "response_length", "n": 40}}
    run = build(small_recipe(filter=top), tmp_path / "run")
    assert [pq.read_metadata(path).num_rows for path in dataset_paths(run)] == [20, 20]
    before = {path: path.stat().st_mtime_ns for path in dataset_paths(run)}
    build(small_recipe(filter=top), tmp_path / "run")
    assert {path: path.stat().st_mtime_ns for path in dataset_paths(run)} == before


def test_there_is_no_dataset_while_the_run_is_unfinished(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    shard_path(run, "tag", 1).unlink()
    build(small_recipe(), tmp_path / "run", stop_after="tag")
    assert run.storage.names(DATASET) == []
    build(small_recipe(), tmp_path / "run")
    assert verify(run) == []


def test_an_empty_dataset_has_its_columns(tmp_path: Path) -> None:
    run = build(small_recipe(filter={"rules": [{"name": "none", "where": "index < 0"}]}), tmp_path / "run")
    assert verify(run) == []
    assert run.dataset().num_rows == 0
    assert {"id", "messages", "difficulty", "response"} <= set(run.dataset().column_names)


def test_a_lost_or_damaged_dataset_is_written_again(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    (path,) = dataset_paths(run)
    before = path.read_bytes()
    path.write_bytes(before[: len(before) // 2])
    assert any(path.name in problem for problem in verify(run))
    build(small_recipe(), tmp_path / "run")
    assert path.read_bytes() == before
    path.unlink()
    assert any(path.name in problem for problem in verify(run))
    build(small_recipe(), tmp_path / "run")
    assert path.read_bytes() == before
    for file in (path, run.folder / DATASET / MANIFEST):
        file.unlink()
    with pytest.raises(RunError, match="no dataset yet"):
        run.dataset()
    assert any("no dataset yet" in problem for problem in verify(run))
    build(small_recipe(), tmp_path / "run")
    assert path.read_bytes() == before


def test_a_dataset_without_a_manifest_is_read_and_verified_and_given_one_by_the_next_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As versions before manifests left it."""
    monkeypatch.setattr(dataset, "ROWS_PER_FILE", 10)
    run = build(small_recipe(), tmp_path / "run")
    before, found, rows = tree(run.folder), status(run), run.dataset().to_list()
    (run.folder / DATASET / MANIFEST).unlink()
    assert len(rows) > 20
    assert run.dataset().to_list() == rows
    assert status(run) == found and found.finished
    # A run of those versions is not sealed either; this one is, and so its loss is noticed.
    assert [MANIFEST in problem and "not there" in problem for problem in verify(run)] == [True]
    assert not (run.folder / DATASET / MANIFEST).exists(), "reading writes nothing"
    build(small_recipe(), tmp_path / "run")
    assert tree(run.folder) == before
    assert verify(run) == []


def test_a_manifest_that_cannot_be_read_is_named_and_the_dataset_written_again(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    before = tree(run.folder)
    (run.folder / DATASET / MANIFEST).write_bytes(b"{")
    assert any(MANIFEST in problem and "run the build again" in problem for problem in verify(run))
    found = status(run)
    assert (found.finished, found.kept) == (False, None) and found.damaged == (str(run.folder / "dataset"),)
    build(small_recipe(), tmp_path / "run")
    assert tree(run.folder) == before
    assert verify(run) == []


def test_the_columns_are_those_of_the_published_datasets(tmp_path: Path) -> None:
    columns = set(build(small_recipe(), tmp_path / "run").dataset().column_names)
    tags = {"task_category", "other_task_categories", "difficulty", "intent", "knowledge", "input_quality"}
    scores = {"min_neighbor_distance", "repeat_count", "min_similar_id"}
    assert tags | scores | {"messages", "quality_explanation", "generator", "judge"} <= columns
    assert not columns & {"embedding", "raw_instruction", "rejected", "index"}


def test_a_run_is_read_from_its_folder_alone(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    again = Run.open(tmp_path / "run")
    assert again.recipe == run.recipe
    assert again.table().equals(run.table())
    with pytest.raises(RunError, match=r"no column.*'nonsense'"):
        run.table(["nonsense"])
