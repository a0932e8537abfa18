"""Folders with splits, and files whose columns are stored in several ways."""

from __future__ import annotations

import json
import re
import resource
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from magpie.data.instructions import read_instructions
from magpie.data.published import Published
from magpie.data.select import refilter
from magpie.errors import FilterError, RecipeError
from magpie.recipe import Filter, NamedDataset, Rule

TEXT, LARGE = pa.string(), pa.large_string()
LABELS = {"info": {"features": {"topic": {"names": ["birds", "trees"], "_type": "ClassLabel"}}}}


def put(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("train.parquet", "test.parquet"),
        ("train/a.parquet", "test/a.parquet"),
        ("all/train_a.parquet", "all/eval.parquet"),
    ],
)
def test_one_split_is_read_and_the_others_are_named(tmp_path: Path, train: str, test: str) -> None:
    put(tmp_path / train, instruction=["Train?"])
    put(tmp_path / test, instruction=["Test?"])
    for name in ("README.md", "_SUCCESS", ".part.crc", "dataset_info.json", "state.json", ".hidden.jsonl"):
        (tmp_path / name).write_text("{}")
    notes: list[str] = []
    assert read_instructions(str(tmp_path), notes.append).texts == ("Train?",)
    assert Published(tmp_path, note=notes.append).rows == 1
    assert notes == [f"{tmp_path}: the split train is read, and not test (1 file)"] * 2
    for read in (f"{tmp_path}:test", NamedDataset(path=str(tmp_path), split="test")):
        assert read_instructions(read, notes.append).texts == ("Test?",)
    assert Published(tmp_path, "all").rows == 2 and len(notes) == 2
    with pytest.raises(RecipeError, match="has no split 'dev'; it has test, train"):
        Published(tmp_path, "dev")


def test_links_are_followed_once_and_one_split_needs_no_word(tmp_path: Path) -> None:
    put(tmp_path / "set" / "b.parquet", instruction=["b"])
    put(tmp_path / "set" / "test.parquet", instruction=["test"])
    (tmp_path / "set" / "again").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "nowhere.parquet").symlink_to(tmp_path / "nothing")
    notes: list[str] = []
    assert read_instructions(str(tmp_path / "set"), notes.append).texts == ("b", "test")
    assert notes == []


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (pa.nulls(1), pa.array(["b"]), TEXT),
        (pa.array(["a"]), pa.array(["b"], LARGE), LARGE),
        (pa.array(["a"]).dictionary_encode(), pa.array(["b"]), TEXT),
        (pa.array(["a"]), pa.array(["b"], pa.string_view()), TEXT),
        (pa.array([1], pa.int32()), pa.array([2]), pa.int64()),
        (pa.array([1]), pa.array([2.5], pa.float32()), pa.float64()),
        (pa.array([["a"]]), pa.array([["b"]], pa.large_list(LARGE)), pa.large_list(LARGE)),
        (pa.array([{"x": 1}]), pa.array([{"x": 2, "y": "b"}]), pa.struct([("x", pa.int64()), ("y", TEXT)])),
        (pa.array([1], pa.timestamp("s")), pa.array([2], pa.timestamp("us")), pa.timestamp("us")),
    ],
)
def test_types_are_made_one_where_no_value_changes(
    tmp_path: Path, first: Any, second: Any, kind: pa.DataType
) -> None:
    put(tmp_path / "in" / "a.parquet", column=first, other=["x"])
    put(tmp_path / "in" / "b.parquet", other=["y"], column=second)
    source = Published(tmp_path / "in")
    assert source.schema.field("column").type == kind
    assert source.columns(["column"])["column"].type == kind
    assert refilter(source, Filter(), tmp_path / "out").kept == 2
    assert pq.read_table(tmp_path / "out").column_names == ["column", "other"]


def test_types_that_do_not_go_together_are_both_named(tmp_path: Path) -> None:
    put(tmp_path / "in" / "a.parquet", column=[1])
    put(tmp_path / "in" / "b.parquet", column=["one"])
    with pytest.raises(RecipeError, match=r"column 'column' is int64 in a.parquet and string in b.parquet"):
        Published(tmp_path / "in")


def test_the_index_of_pandas_is_a_column_only_where_all_files_have_it(tmp_path: Path) -> None:
    put(tmp_path / "in" / "a.parquet", instruction=["a"])
    put(tmp_path / "in" / "b.parquet", instruction=["b"], __index_level_0__=[7])
    assert "__index_level_0__" not in Published(tmp_path / "in").schema.names
    assert Published(tmp_path / "in").rows == 2


def test_a_column_of_json_may_be_missing_or_of_several_types(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "n": 1}, {"instruction": "b", "n": "one", "extra": {}}, {"n": 2**70}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes: list[str] = []
    source = Published(tmp_path / "in.jsonl", note=notes.append)
    assert source.columns(["n"])["n"].to_pylist() == ["1", "one", str(2**70)]
    (note,) = notes
    assert (
        "column 'n' holds whole numbers (line 1) and texts (line 2) and numbers over 64 bits (line 3)" in note
    )
    assert refilter(source, Filter(), tmp_path / "out").kept == 3


def test_names_of_labels_are_read_and_kept(tmp_path: Path) -> None:
    table = pa.table({"instruction": ["a", "b"], "topic": [1, 0]})
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(LABELS)}), tmp_path / "in.parquet"
    )
    rule = Rule(name="trees", where="topic = 'trees'")
    assert refilter(Published(tmp_path / "in.parquet"), Filter(rules=(rule,)), tmp_path / "out").kept == 1
    (written,) = (tmp_path / "out").glob("*.parquet")
    assert json.loads(pq.read_schema(written).metadata[b"huggingface"]) == LABELS
    assert pq.read_table(written)["topic"].to_pylist() == [1]


def test_an_empty_file_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    said: list[str] = []
    with pytest.raises(RecipeError, match="is empty: it has no rows"):
        Published(tmp_path / "empty.jsonl", note=said.append)
    assert said == []
    # Where another file has rows there is no error, and so there is a note.
    (tmp_path / "full.jsonl").write_text(json.dumps({"instruction": "Why?"}))
    assert Published(tmp_path, note=said.append).rows == 1
    assert [line for line in said if "empty.jsonl is empty" in line] == said != []


@pytest.mark.parametrize("by", ["topic", "upper(topic)"])
def test_a_quota_for_a_value_that_no_row_has_is_named(tmp_path: Path, by: str) -> None:
    put(tmp_path / "rows.parquet", topic=["a", "b", "b"])
    counts = {"B" if "upper" in by else "b": 1, "Mathz": 2}
    found = Filter.model_validate({"name": "some", "quotas": {"by": by, "counts": counts}})
    with pytest.raises(
        FilterError, match=rf"`quotas.counts` names 'Mathz', and no row has that as {re.escape(by)}"
    ):
        refilter(Published(tmp_path / "rows.parquet"), found)


def test_a_quota_for_a_value_that_the_rules_leave_out_is_no_mistake(tmp_path: Path) -> None:
    put(tmp_path / "rows.parquet", topic=["a", "b", "b"])
    rules = [{"name": "not a", "where": "topic <> 'a'"}]
    quotas = {"by": "topic", "counts": {"a": 1, "b": 1}}
    found = Filter.model_validate({"name": "some", "rules": rules, "quotas": quotas})
    assert refilter(Published(tmp_path / "rows.parquet"), found).kept == 1


def test_a_folder_may_hold_more_files_than_may_be_open(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(120):
        pq.write_table(pa.table({"instruction": [f"Why {number}?"]}), folder / f"part-{number:03d}.parquet")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 40, hard))
    try:
        rows = Published(folder)
        kept = pa.concat_tables(rows.kept(pa.chunked_array([pa.nulls(rows.rows, pa.string())])))
        texts = rows.texts([0, 64, 119])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert kept["instruction"].to_pylist() == [f"Why {number}?" for number in range(120)]
    assert [text for _, text in texts.values()] == ["Why 0?", "Why 64?", "Why 119?"]
    assert [rows.place_of(at) for at in (0, 119)] == ["part-000.parquet row 1", "part-119.parquet row 1"]
