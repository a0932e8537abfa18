"""Datasets put together of several: each row is read where it has its text, in whatever column and storage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from magpie.api import export
from magpie.data.instructions import read_instructions
from magpie.data.published import Published
from magpie.data.select import refilter
from magpie.errors import RecipeError
from magpie.recipe import Filter, Rule

USER = {"role": "user", "content": "Why?"}
ASSISTANT = {"role": "assistant", "content": "So."}
TALK = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
MIXED = [
    {"instruction": "Why?", "response": "So.", "conversations": None},
    {"instruction": None, "conversations": TALK},
    {"instruction": "", "response": " \n", "messages": [USER, ASSISTANT]},
    {"messages": [{**USER, "role": "USER"}, ASSISTANT]},
    {"prompt": "Why?", "completion": "So."},
    {"prompt": None, "question": "Why?", "answer": "So."},
    {"input": "Why?", "output": "So."},
    {"instruction": "Why?", "input": "", "output": "So."},
]


def written(tmp_path: Path, rows: list[dict[str, Any]], ending: str = "jsonl") -> Path:
    path = tmp_path / f"in.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist([{**dict.fromkeys(_names(rows)), **row} for row in rows]), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _names(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("batch", [1, 3, 10_000])
def test_a_row_is_read_where_it_has_its_text(
    tmp_path: Path, ending: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magpie.data.parts._BATCH", batch)
    path, notes = written(tmp_path, MIXED, ending), list[str]()
    source = Published(path, note=notes.append)
    read = source.columns(["instruction", "response", "instruction_length", "response_length"])
    assert read["instruction"].to_pylist() == ["Why?"] * len(MIXED)
    assert read["response"].to_pylist() == ["So."] * len(MIXED)
    assert read["instruction_length"].to_pylist() == [4] * len(MIXED)
    assert read["response_length"].to_pylist() == [3] * len(MIXED)
    assert notes == []
    assert source.texts(range(len(MIXED))) == {at: (str(at), "Why?") for at in range(len(MIXED))}
    assert read_instructions(str(path)).texts == ("Why?",) * len(MIXED)
    rule = Rule(name="asked", where="instruction = 'Why?' AND response_length = 3")
    assert refilter(source, Filter(rules=(rule,)), tmp_path / "out").kept == len(MIXED)


def test_rows_in_several_files_and_groups_are_filled_from_their_own(tmp_path: Path) -> None:
    rows = [
        {"instruction": None if at % 3 else f"i{at}", "prompt": f"p{at}", "completion": f"c{at}"}
        for at in range(50)
    ]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[:20]), tmp_path / "in" / "a.parquet", row_group_size=7)
    pq.write_table(pa.Table.from_pylist(rows[20:]), tmp_path / "in" / "b.parquet", row_group_size=4)
    source = Published(tmp_path / "in")
    right = [f"p{at}" if at % 3 else f"i{at}" for at in range(50)]
    assert source.columns(["instruction"])["instruction"].to_pylist() == right
    assert {at: text for at, (_, text) in source.texts([8, 19, 21, 49]).items()} == {
        at: right[at] for at in (8, 19, 21, 49)
    }


def test_what_no_column_has_stays_as_it_is(tmp_path: Path) -> None:
    rows = [{"instruction": "", "messages": None}, {"instruction": None, "messages": [ASSISTANT]}]
    source = Published(written(tmp_path, rows), note=lambda _: None)
    assert source.columns(["instruction"])["instruction"].to_pylist() == ["", None]


def test_an_answer_beside_a_response_is_the_key_to_an_exercise(tmp_path: Path) -> None:
    rows = [{"question": "1+1?", "response": None, "answer": "2"}]
    assert Published(written(tmp_path, rows)).columns(["response"])["response"].to_pylist() == [None]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_the_two_fields_of_alpaca_are_one_instruction(tmp_path: Path, ending: str) -> None:
    rows = [
        {"instruction": "Translate.", "input": " Katze\n", "output": "cat"},
        {"instruction": "Sing.", "input": "", "output": "La."},
        {"instruction": None, "input": "Why?", "output": "So."},
    ]
    path = written(tmp_path, rows, ending)
    source = Published(path)
    right = ["Translate.\nKatze", "Sing.", "Why?"]
    assert source.columns(["instruction"])["instruction"].to_pylist() == right
    assert list(read_instructions(str(path)).texts) == right
    lengths = source.columns(["instruction_length"])["instruction_length"].to_pylist()
    assert lengths == [len(text) for text in right]
    # What is kept is the rows as the file has them.
    assert refilter(source, Filter(), tmp_path / "out").kept == 3
    (kept,) = (tmp_path / "out").glob("*.parquet")
    assert pq.read_table(kept)["input"].to_pylist() == [row["input"] for row in rows]


VIEWS = {
    "text": pa.array(["Why?", None, "How?"], pa.string_view()),
    "bytes": pa.array([b"\xff", None, b""], pa.binary_view()),
    "list": pa.array([["a"], None, []], pa.list_view(pa.string())),
    "large_list": pa.array([["a"], None, []], pa.large_list_view(pa.string_view())),
    "held_in_lists": pa.array([["a"], None, []], pa.list_(pa.string_view())),
    "struct": pa.array([{"a": "x"}, None, {"a": None}], pa.struct([("a", pa.string_view())])),
    "map": pa.array([[("a", "b")], None, []], pa.map_(pa.string(), pa.string_view())),
    "messages": pa.array(
        [[USER], None, [USER, ASSISTANT]],
        pa.list_view(pa.struct([("role", pa.string_view()), ("content", pa.string_view())])),
    ),
}


@pytest.mark.parametrize("form", ["parquet", "arrow", "stream"])
def test_views_are_read_everywhere_as_what_they_hold(tmp_path: Path, form: str) -> None:
    # Arrow cannot write lists of views as Parquet; other programs may.
    names = ["text", "bytes", "list", "struct"] if form == "parquet" else [*VIEWS]
    table = pa.table({"instruction": VIEWS["text"], **{name: VIEWS[name] for name in names}})
    path = tmp_path / f"in.{'parquet' if form == 'parquet' else 'arrow'}"
    if form == "parquet":
        pq.write_table(table, path)
    else:
        new = pa.ipc.new_file if form == "arrow" else pa.ipc.new_stream
        with new(path, table.schema) as writer:
            writer.write_table(table)
    source = Published(path)
    assert refilter(source, Filter(), tmp_path / "out").kept == 3
    (kept,) = (tmp_path / "out").glob("*.parquet")
    assert pq.read_table(kept).to_pylist() == table.to_pylist()
    assert "_view" not in str(pq.read_schema(kept))
    read = source.columns(["instruction", "instruction_length", "text", "list"])
    assert read["instruction"].to_pylist() == ["Why?", None, "How?"]
    assert read["instruction_length"].to_pylist() == [4, None, 4]
    one = Rule(name="one", where="text = 'How?' AND len(list) = 0")
    assert refilter(source, Filter(rules=(one,))).kept == 1
    assert read_instructions(str(path)).texts == ("Why?", "How?")


def test_views_beside_other_texts_are_one_column(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, kind in {
        "a": pa.string_view(),
        "b": pa.string(),
        "c": pa.large_string(),
        "d": pa.null(),
    }.items():
        values = pa.array([None if name == "d" else name], kind)
        pq.write_table(pa.table({"instruction": values}), tmp_path / "in" / f"{name}.parquet")
    source = Published(tmp_path / "in")
    assert source.columns(["instruction"])["instruction"].to_pylist() == ["a", "b", "c", None]
    assert refilter(source, Filter(), tmp_path / "out").kept == 4


def test_bytes_in_a_view_are_named_by_their_row(tmp_path: Path) -> None:
    wrong = pa.Array.from_buffers(pa.string_view(), 2, pa.array([b"ok", b"\xff"], pa.binary_view()).buffers())
    pq.write_table(pa.table({"instruction": wrong}), tmp_path / "in.parquet")
    with pytest.raises(RecipeError, match="column `instruction`, row 2: not UTF-8 text"):
        list(Published(tmp_path / "in.parquet").kept(pa.chunked_array([pa.nulls(2, pa.string())])))
    with pytest.raises(RecipeError, match="column `instruction`, row 2: not UTF-8 text"):
        read_instructions(str(tmp_path / "in.parquet"))


def test_runs_and_dictionaries_of_views_are_read_and_a_union_is_refused(tmp_path: Path) -> None:
    texts = pa.array(["a", "a", "b"])
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["a", "b"]))
    coded = pa.DictionaryArray.from_arrays(
        pa.array([0, 0, 1], pa.int8()), pa.array(["a", "b"], pa.string_view())
    )
    for name, values in {"runs": runs, "coded": coded}.items():
        table = pa.table({"instruction": values})
        with pa.ipc.new_file(tmp_path / f"{name}.arrow", table.schema) as writer:
            writer.write_table(table)
        source = Published(tmp_path / f"{name}.arrow")
        assert source.columns(["instruction"])["instruction"].to_pylist() == texts.to_pylist()
    union = pa.UnionArray.from_sparse(pa.array([0, 0, 0], pa.int8()), [texts])
    table = pa.table({"instruction": union})
    with pa.ipc.new_file(tmp_path / "union.arrow", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(RecipeError, match="type that Parquet cannot hold"):
        Published(tmp_path / "union.arrow")


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_length_that_a_row_lacks_is_that_of_its_text(tmp_path: Path, ending: str) -> None:
    """One dataset had the column, the other not: no row is lost for want of a number that follows from it."""
    rows = [
        {"instruction": "Why?", "response": "So.", "response_length": 3, "output_length": None},
        {"instruction": "Why?", "response": "So be it.", "response_length": None, "output_length": 1},
        {"instruction": "Why?", "response": None, "response_length": None, "output_length": None},
        {"conversations": TALK, "instruction": None, "response": None, "response_length": 7},
    ]
    published = Published(written(tmp_path, rows, ending))
    lengths = published.columns(["response_length", "instruction_length"])
    assert lengths["response_length"].to_pylist() == [3, 9, None, 7]
    assert lengths["instruction_length"].to_pylist() == [4, 4, 4, 4]
    keep = Filter(name="f", rules=(Rule(name="long", where="response_length > 2"),))
    assert refilter(published, keep).kept == 3
    export(tmp_path / f"in.{ending}", "magpie", tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["response_length"].to_pylist() == [3, 9, None, 7]


def test_a_length_of_no_numbers_at_all_is_that_of_the_text(tmp_path: Path) -> None:
    table = pa.table({"instruction": ["Why?"], "response": ["So."], "response_length": pa.nulls(1)})
    pq.write_table(table, tmp_path / "in.parquet")
    assert Published(tmp_path / "in.parquet").columns(["response_length"])["response_length"].to_pylist() == [
        3
    ]
    texts = table.set_column(2, "response_length", pa.array(["short"]))
    pq.write_table(texts, tmp_path / "in.parquet")
    assert Published(tmp_path / "in.parquet").columns(["response_length"])["response_length"].to_pylist() == [
        "short"
    ]
