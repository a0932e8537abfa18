"""The final dataset: files of bounded size, written anew when what they are made from changes."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import small_recipe

from magpie.build import build
from magpie.data.select import compare, refilter
from magpie.errors import RunError
from magpie.figures.status import verify
from magpie.recipe import Filter, Rule
from magpie.runs import dataset
from magpie.runs.run import Run


def test_many_rows_become_many_files_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "ROWS_PER_FILE", 10)
    tables = [pa.table({"id": [f"r-{at}" for at in range(first, first + 7)]}) for first in range(0, 35, 7)]
    folder = tmp_path / "out"
    dataset.write_files(folder, iter(tables), 35, run_name="x", made_from="y")
    files = sorted(folder.glob("*.parquet"))
    assert [pq.read_metadata(path).num_rows for path in files] == [10, 10, 10, 5]
    ids = [one for path in files for one in pq.read_table(path)["id"].to_pylist()]
    assert ids == [f"r-{at}" for at in range(35)]
    dataset.write_files(folder, iter(tables[:1]), 7, run_name="x", made_from="y")
    assert [path.name for path in folder.iterdir()] == ["train-00000.parquet"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_dataset_takes_the_place_of_nothing_else(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "users.parquet").write_bytes(b"mine")
    with pytest.raises(RunError, match=r"users\.parquet"):
        refilter(run, Filter(name="all"), mine)
    assert (mine / "users.parquet").read_bytes() == b"mine"
    with pytest.raises(RunError, match="the run itself"):
        refilter(run, Filter(name="all"), run.dataset_folder)
    assert verify(run) == []


def test_a_full_last_file_counts_as_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "ROWS_PER_FILE", 20)
    top = {"name": "top", "top": {"by": "response_length", "n": 40}}
    run = build(small_recipe(filter=top), tmp_path / "run")
    assert [pq.read_metadata(path).num_rows for path in run.dataset_files] == [20, 20]
    before = {path: path.stat().st_mtime_ns for path in run.dataset_files}
    build(small_recipe(filter=top), tmp_path / "run")
    assert {path: path.stat().st_mtime_ns for path in run.dataset_files} == before


def test_there_is_no_dataset_while_the_run_is_unfinished(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    run.shard_path(run.step("tag"), 1).unlink()
    build(small_recipe(), tmp_path / "run", stop_after="tag")
    assert not run.dataset_folder.exists()
    build(small_recipe(), tmp_path / "run")
    assert verify(run) == []


def test_an_empty_dataset_has_its_columns(tmp_path: Path) -> None:
    run = build(small_recipe(filter={"rules": [{"name": "none", "where": "index < 0"}]}), tmp_path / "run")
    assert verify(run) == []
    assert run.dataset().num_rows == 0
    assert {"id", "messages", "difficulty", "response"} <= set(run.dataset().column_names)


def test_a_lost_or_damaged_dataset_is_written_again(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    (path,) = run.dataset_files
    before = path.read_bytes()
    path.write_bytes(before[: len(before) // 2])
    assert any(path.name in problem for problem in verify(run))
    build(small_recipe(), tmp_path / "run")
    assert path.read_bytes() == before
    path.unlink()
    with pytest.raises(RunError, match="no dataset yet"):
        run.dataset()
    build(small_recipe(), tmp_path / "run")
    assert path.read_bytes() == before


def test_the_columns_are_those_of_the_published_datasets(tmp_path: Path) -> None:
    columns = set(build(small_recipe(), tmp_path / "run").dataset().column_names)
    tags = {"task_category", "other_task_categories", "difficulty", "intent", "knowledge", "input_quality"}
    scores = {"min_neighbor_distance", "repeat_count", "min_similar_id"}
    assert tags | scores | {"messages", "quality_explanation", "generator", "judge"} <= columns
    assert not columns & {"embedding", "raw_instruction", "rejected", "index"}


def test_refiltering_keeps_what_a_build_with_that_filter_would(tmp_path: Path) -> None:
    other = Filter(name="other", rules=(Rule(name="hard", where="difficulty = 'hard'"),))
    raw = build(small_recipe(filter=None), tmp_path / "raw")
    found = refilter(raw, other, tmp_path / "out")
    kept, lines = found.kept, found.lines
    built = build(small_recipe(filter=other.model_dump(mode="json")), tmp_path / "built")
    messages = pq.read_table(tmp_path / "out")["messages"].to_pylist()
    assert messages == built.dataset()["messages"][:]
    assert kept == len(messages) == lines[-1].left
    assert [(line.rows_in - line.lost, line.name) for line in lines] == [(kept, "hard")]


def test_refiltering_a_filtered_run_counts_only_rows_that_came_to_it(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    everything = Filter(name="all")
    found = refilter(run, everything, tmp_path / "all")
    answered = [row for row in run.table(["response"]).to_pylist() if row["response"] is not None]
    assert found.kept == len(answered)
    assert found.never_answered > 0
    assert found.lines == ()
    compared = compare(run, everything, everything)
    assert (compared.rows, compared.never_answered) == (found.kept, found.never_answered)


def test_a_run_is_read_from_its_folder_alone(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    again = Run.open(tmp_path / "run")
    assert again.recipe == run.recipe
    assert again.table().equals(run.table())
    with pytest.raises(RunError, match=r"no column.*'nonsense'"):
        run.table(["nonsense"])


def test_reasoning_is_in_the_messages_only_when_asked_for() -> None:
    rows = pa.table(
        {
            "instruction": ["Why?", "How?"],
            "reasoning": pa.array(["First this.", None], pa.string()),
            "response": ["Because.", "So."],
            "later_turns": [
                [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "Also."}],
                [],
            ],
            "later_reasoning": pa.array([["Then that."], []], pa.list_(pa.string())),
        }
    )
    plain = dataset._messages(rows, with_reasoning=False).to_pylist()
    assert [message["content"] for message in plain[0]] == ["Why?", "Because.", "And?", "Also."]
    first, second = dataset._messages(rows, with_reasoning=True).to_pylist()
    assert [message["content"] for message in first] == [
        "Why?",
        "<think>\nFirst this.\n</think>\n\nBecause.",
        "And?",
        "<think>\nThen that.\n</think>\n\nAlso.",
    ]
    assert [message["content"] for message in second] == ["How?", "So."]
