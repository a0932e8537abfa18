"""One reader for every file of records: each shape is read alike by whatever reads records."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from magpie.data.instructions import read_instructions
from magpie.data.published import Published
from magpie.data.select import refilter
from magpie.errors import RecipeError
from magpie.recipe import Filter, NamedDataset, Rule
from magpie.recipe.reading import read_texts
from magpie.records.rows import read_rows

QUESTIONS = ("Warum ist der Himmel blau?", "Sing a “song”.", "Übersetze: 猫")
ANSWERS = ("Streuung.", "La.", "Cat.")


def said(role: str, text: Any, *, names: tuple[str, str] = ("role", "content")) -> dict[str, Any]:
    return {names[0]: role, names[1]: text}


def parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def conversations(roles: tuple[str, str], names: tuple[str, str] = ("role", "content")) -> list[Any]:
    return [
        [said(roles[0], question, names=names), said(roles[1], answer, names=names)]
        for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
    ]


ROWS: dict[str, list[dict[str, Any]]] = {
    "flat": [{"instruction": q, "response": a} for q, a in zip(QUESTIONS, ANSWERS, strict=True)],
    "another case": [{"Instruction": q, "OUTPUT": a} for q, a in zip(QUESTIONS, ANSWERS, strict=True)],
    "prompt and completion": [{"prompt": q, "completion": a} for q, a in zip(QUESTIONS, ANSWERS, strict=True)],
    "question and answer": [{"question": q, "answer": a} for q, a in zip(QUESTIONS, ANSWERS, strict=True)],
    "messages": [{"messages": turns} for turns in conversations(("user", "assistant"))],
    "roles in capitals": [{"messages": turns} for turns in conversations(("USER", "Assistant:"))],
    "other names": [{"messages": turns} for turns in conversations(("Human", "bot"))],
    "model": [{"messages": turns} for turns in conversations(("user", "model"))],
    "sharegpt": [{"conversations": turns} for turns in conversations(("human", "gpt"), ("from", "value"))],
    "parts": [
        {"messages": [said("user", parts(q)), said("assistant", parts(a))]}
        for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ],
    "system, tools and nothing": [
        {"messages": [said("system", "Be brief."), said("user", None), said("tool", "{}"), said("user", q),
                      said("assistant", a)]}
        for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ],
    "the assistant first": [
        {"messages": [said("assistant", "Hello!"), said("user", q), said("assistant", a)]}
        for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ],
    "json text": [{"messages": json.dumps(turns)} for turns in conversations(("user", "assistant"))],
    "columns of turns": [
        {"messages": {"role": ["user", "assistant"], "content": [q, a]}}
        for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ],
    "prompt as messages": [
        {"prompt": [said("user", q)], "completion": [said("assistant", a)]}
        for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ],
}  # fmt: skip


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def array(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows, ensure_ascii=False, indent=1).encode()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return bytes(sink.getvalue())


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def arrow(rows: list[dict[str, Any]]) -> bytes:
    sink, table = pa.BufferOutputStream(), pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


FILES: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "rows.jsonl": lines,
    "rows.json": array,
    "one_line.json": lambda rows: json.dumps(rows).encode(),
    "data_key.json": lambda rows: json.dumps({"version": 1, "data": rows}).encode(),
    "objects.json": lambda rows: b"\n".join(json.dumps(row, indent=2).encode() for row in rows),
    "rows.jsonl.gz": lambda rows: gzip.compress(lines(rows)),
    "rows.jsonl.zst": lambda rows: zstd(lines(rows)),
    "rows.jsonl.bz2": lambda rows: bz2.compress(lines(rows)),
    "rows.jsonl.xz": lambda rows: lzma.compress(lines(rows)),
    "members.jsonl.gz": lambda rows: b"".join(gzip.compress(lines([row])) for row in rows),
    "marked.jsonl": lambda rows: codecs.BOM_UTF8 + lines(rows),
    "joined.jsonl": lambda rows: b"".join(codecs.BOM_UTF8 + lines([row]) for row in rows),
    "wide.jsonl": lambda rows: lines(rows).decode().encode("utf-16"),
    "wide_unmarked.jsonl": lambda rows: lines(rows).decode().encode("utf-16-le"),
    "crlf.jsonl": lambda rows: lines(rows).replace(b"\n", b"\r\n\r\n"),
    "cr.jsonl": lambda rows: lines(rows).replace(b"\n", b"\r"),
    "commas.jsonl": lambda rows: lines(rows).replace(b"\n", b",\n"),
    "trailing.json": lambda rows: array(rows).rstrip(b"\n]") + b",\n]\n",
    "rows.parquet": parquet,
    "rows.arrow": arrow,
    "rows.parquet.gz": lambda rows: gzip.compress(parquet(rows)),
    "columns.json": lambda rows: json.dumps({name: [row[name] for row in rows] for name in rows[0]}).encode(),
    "numbered.json": lambda rows: json.dumps({str(at): row for at, row in enumerate(rows)}).encode(),
    "lies.jsonl": parquet,
    "lies.parquet": lines,
    "lies.json": lambda rows: gzip.compress(lines(rows)),
}


# Every shape in a file of lines and in a table, and every file with two of the shapes.
PAIRS = [
    (shape, name)
    for shape in ROWS
    for name in FILES
    if name in {"rows.jsonl", "rows.parquet"} or shape in {"flat", "parts"}
]


@pytest.mark.parametrize(("shape", "name"), PAIRS)
def test_every_shape_in_every_file_is_read_by_all_that_read_records(
    tmp_path: Path, shape: str, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name](ROWS[shape]))
    notes: list[str] = []
    assert read_instructions(str(path), notes.append).texts == QUESTIONS
    assert notes == []
    source = Published(path, note=notes.append)
    rule = Rule(name="rule", where="instruction IS NOT NULL AND response = 'Cat.' AND response_length = 4")
    assert refilter(source, Filter(rules=(rule,)), tmp_path / "out").kept == 1
    read = source.columns(["instruction", "response"]).to_pylist()
    assert [(row["instruction"], row["response"]) for row in read] == list(
        zip(QUESTIONS, ANSWERS, strict=True)
    )
    assert set(pq.read_table(tmp_path / "out").column_names) == set(ROWS[shape][0])
    greeted = [f"{path}: 3 of 3 rows begin with the assistant: its first turn is left out"]
    assert list(dict.fromkeys(notes)) == (greeted if shape == "the assistant first" else [])


@pytest.mark.parametrize("key", ["instances", "examples", "questions", "items", "data"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_in_a_row_is_a_part_of_it_however_many_rows_a_file_has(
    tmp_path: Path, key: str, count: int, indent: int | None
) -> None:
    """A file of one seed task was read as a file of that task's instances."""
    path = tmp_path / "seeds.jsonl"
    rows = [
        {"id": str(number), "Instruction": "Say it.", key: [{"input": "It", "output": "it"}]}
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row, indent=indent) + "\n" for row in rows))
    assert [record.value for record in read_rows(path)] == rows
    # A file that says nothing itself holds the rows of its list.
    path.write_text(json.dumps({"version": 1, "Definition": "To say it", key: rows}, indent=indent))
    assert [record.value for record in read_rows(path)] == rows


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(("name", "between"), [("rows.csv", ","), ("rows.tsv", "\t"), ("semi.csv", ";")])
def test_csv_is_read_with_its_quotes_and_its_numbers(
    tmp_path: Path, name: str, between: str, mark: str
) -> None:
    path = tmp_path / name
    rows = [["instruction", "reward", "zip"], ['"a ""b""\nc"', "1.5", "007"], ["d", "", "100"]]
    path.write_text(mark + "".join(between.join(row) + "\r\n" for row in rows), encoding="utf-8", newline="")
    assert read_instructions(str(path)).texts == ('a "b"\nc', "d")
    assert list(Published(path).kept(pa.chunked_array([pa.nulls(2, pa.string())])))[-1].to_pylist() == [
        {"instruction": 'a "b"\nc', "reward": 1.5, "zip": "007"},
        {"instruction": "d", "reward": None, "zip": "100"},
    ]


def test_texts_a_line_are_instructions_and_steering_texts(tmp_path: Path) -> None:
    for name, data in {
        "a.txt": "Sing.\r\n\r\nBake.\r".encode("utf-8-sig"), "b.txt": "Sing.\nBake.".encode("utf-16"),
        "c.txt.gz": gzip.compress(b"Sing.\nBake.\n"),
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
        assert read_instructions(str(tmp_path / name)).texts == ("Sing.", "Bake.")
        assert read_texts(tmp_path / name) == ["Sing.", "Bake."]


def test_steering_texts_may_be_records_of_any_format(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "Graphs", "share": 2.0}, {"text": "Trees"}]
    for name in ("rows.jsonl", "rows.json", "rows.jsonl.gz", "rows.parquet", "marked.jsonl", "wide.jsonl"):
        (tmp_path / name).write_bytes(FILES[name](rows))
        assert read_texts(tmp_path / name) == rows
    (tmp_path / "texts.yaml").write_bytes(codecs.BOM_UTF8 + b"- Graphs\n")
    assert read_texts(tmp_path / "texts.yaml") == ["Graphs"]


def test_rows_of_several_shapes_are_read_row_by_row_and_the_rest_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    rows = [
        {"instruction": "One.", "conversations": None},
        {"instruction": None, "conversations": [said("human", "Two.", names=("from", "value"))]},
        {"instruction": "", "messages": [said("User", parts("Three."))]},
        {"instruction": "Sum:", "input": "1 and 2"},
        {"score": 4},
        {"messages": [said("narrator", "Once.")]},
    ]
    path.write_bytes(lines(rows))
    notes: list[str] = []
    assert read_instructions(str(path), notes.append).texts == ("One.", "Two.", "Three.", "Sum:\n1 and 2")
    (note,) = notes
    assert (
        "2 of 6 rows have no instruction" in note
        and "row 5 (it has score)" in note
        and "row 6 (`messages`" in note
    )


def test_later_questions_are_read_and_leave_the_first_ones_alone(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    path.write_bytes(lines([{"question_id": 81, "turns": ["First?", "Then?"]}, {"turns": ["Alone?"]}]))
    found = read_instructions(str(path))
    assert found.texts == ("First?", "Alone?")
    assert (found.later_texts, found.later_places) == (("Then?",), (f"{path}:1",))
    path.write_bytes(lines([{"turns": ["First?"]}, {"turns": ["Alone?"]}]))
    assert read_instructions(str(path)).digest == found.digest
    assert read_instructions(str(path)).later_digest is None is not found.later_digest


def test_a_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "exam.csv").write_text("text,Task\nignored,Why?\n")
    assert read_instructions(NamedDataset(path=str(tmp_path / "exam.csv"), column="task")).texts == ("Why?",)
    with pytest.raises(RecipeError, match="in the column 'nope': it has text, Task in row 1; name another"):
        read_instructions(NamedDataset(path=str(tmp_path / "exam.csv"), column="nope"))


BROKEN = {
    "bad.jsonl": (b'{"text": "a"}\n{"text": "\xff"}\n', r"bad.jsonl: column `text`, line 2: not UTF-8"),
    "bad.json": (b'[{"text": "a"},\n{"text": "\xff"}]', r"bad.json: column `text`, line 2: not UTF-8"),
    "bad.csv": (b"a,b\n1,\xff\n", r"bad.csv: column `b`, line 2: not UTF-8"),
    "bad.txt": (b"a\n\xff\n", r"line 2 of .*bad.txt is not UTF-8 text"),
    "odd.jsonl": (b'{"a": 1}\n{"a": }\n', r"line 2 of .*odd.jsonl is not JSON; mend that line \(column 7"),
    "odd.json": (b'[{"a": 1},\n {"a" 1}]', r"line 2 of .*odd.json is not JSON"),
    "deep.json": (b'{"a": ' + b"[" * 200_000, r"deep.json is not JSON"),
    "two.csv": (b"a,b\n1,2,3\n", r"line 2 of .*two.csv has 3 fields, and the header 2"),
    "same.csv": (b"a,a\n1,2\n", r"two columns 'a'"),
    "cut.jsonl.gz": (gzip.compress(b'{"instruction": "a"}\n' * 999)[:-20], r"cut.jsonl.gz cannot be read"),
    "cut.parquet": (b"PAR1 and no more", r"cut.parquet cannot be read"),
    "no.parquet": (b"words", r"no.parquet cannot be read as Parquet"),
    "book.xlsx.csv": (b"PK\x03\x04aaaa", r"is a zip archive"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    data, message = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    for read in (read_instructions, Published):
        with pytest.raises(RecipeError, match=message) as caught:
            read(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_named_by_column_and_row(tmp_path: Path) -> None:
    texts = pa.array([b"fine", b"\xff\xfe"] * 3)
    table = pa.table({"a": [1] * 6, "instruction": pa.Array.from_buffers(pa.string(), 6, texts.buffers())})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=2)
    with pytest.raises(RecipeError, match=r"in.parquet: column `instruction`, row 2: not UTF-8 text"):
        read_instructions(str(tmp_path / "in.parquet"))
    with pytest.raises(RecipeError, match=r"in.parquet: column `instruction`, row 2: not UTF-8 text"):
        Published(tmp_path / "in.parquet").columns(["instruction"])
    with pytest.raises(RecipeError, match=r"in.parquet: column `instruction`, row 2: not UTF-8 text"):
        refilter(Published(tmp_path / "in.parquet"), Filter(), tmp_path / "out")


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    for name in ("none.jsonl", "none.json", "none.csv", "none.txt", "none.parquet"):
        (tmp_path / name).write_bytes(b"")
        notes: list[str] = []
        assert read_instructions(str(tmp_path / name), notes.append).texts == ()
        assert notes == [f"{tmp_path / name} is empty: it has no rows"]
        with pytest.raises(RecipeError, match="is empty: it has no rows"):
            Published(tmp_path / name)


def test_a_table_in_json_by_columns_and_by_numbers_is_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    rows = [
        {"instruction": "Why?", "response": "So.", "n": 1},
        {"instruction": "How?", "response": None, "n": 2},
    ]
    by_number = {name: {str(at): row[name] for at, row in enumerate(rows)} for name in rows[0]}
    for table in (by_number, {name: [row[name] for row in rows] for name in rows[0]}):
        path.write_text(json.dumps(table))
        assert [record.value for record in read_rows(path)] == rows
    for one in (
        {"prompt": "Why?", "tags": ["a"]},
        {"messages": [said("user", "Why?")]},
        {"text": ["a"], "n": [1, 2]},
        {name: said(name, "Why?") for name in ("prompt", "chosen", "rejected")},
        {"instruction": {"text": "Why?", "lang": "en"}, "response": {"text": "So.", "lang": "en"}},
        {"messages": []},
        {"instruction": {}, "response": {}},
    ):
        path.write_text(json.dumps(one))
        assert [record.value for record in read_rows(path)] == [one]


def test_csv_may_tell_its_delimiter_as_excel_does(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('sep=;\ninstruction;response\n"a, b";c\n\nd;e;f\n')
    rows = read_rows(path)
    first = next(rows)
    assert (first.place, first.value) == (3, {"instruction": "a, b", "response": "c"})
    with pytest.raises(RecipeError, match=r"line 5 of .* has 3 fields"):
        next(rows)
    path.write_bytes(b"sep=;\nTag;Gr\xff\xdfe\n")
    with pytest.raises(RecipeError, match="line 2 of"):
        next(read_rows(path))
    path.write_text("sep=\r\n1\r\n")  # a column of that name
    assert next(read_rows(path)).value == {"sep=": "1"}


def test_texts_that_a_writer_marked_as_bytes_are_texts(tmp_path: Path) -> None:
    for kind in (pa.binary(), pa.large_binary()):
        table = pa.table(
            {"Instruction": pa.array(["Größe?", None], kind), "other": pa.array([b"\xff", b""], kind)}
        )
        pq.write_table(table, tmp_path / "rows.parquet")
        assert read_instructions(NamedDataset(path=str(tmp_path / "rows.parquet"))).texts == ("Größe?",)
        schema = Published(tmp_path / "rows.parquet").file_schema
        assert [pa.types.is_binary(one) or pa.types.is_large_binary(one) for one in schema.types] == [
            False,
            True,
        ]
    pq.write_table(pa.table({"instruction": [b"Why?", b"\xff"]}), tmp_path / "bad.parquet")
    with pytest.raises(RecipeError, match=r"bad\.parquet: column `instruction`, row 2: not UTF-8 text"):
        list(read_rows(tmp_path / "bad.parquet"))
