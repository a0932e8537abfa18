"""Verbs that read a dataset read what its files hold, whatever they are called and whatever their columns hold."""

from __future__ import annotations

import gzip
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from magpie import api
from magpie.data.published import Published
from magpie.data.select import refilter
from magpie.figures.report_rows import report_rows
from magpie.publish.card.making import make_card
from magpie.publish.source import open_source
from magpie.recipe.loading import load_filter
from magpie.report.show_dataset import show_dataset_rows
from magpie.runs.opened import open_dataset
from magpie.terminal import new_console

TALK = [{"instruction": "Why?", "response": "So."}, {"instruction": "How?", "response": None}]


def exported(path: Path) -> list[Any]:
    out = path.with_name("out.jsonl")
    api.export(path, "openai", out, overwrite=True)
    return [
        [turn["content"] for turn in json.loads(line)["messages"]] for line in out.read_text().splitlines()
    ]


def shown(path: Path) -> str:
    console = new_console(file=StringIO(), width=200)
    show_dataset_rows(open_dataset(path), console)
    return console.file.getvalue()


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "JSON lines"])
def test_a_file_of_another_kind_than_its_name_says(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "rows.parquet"
    if packed:
        pq.write_table(pa.Table.from_pylist(TALK), path)
        path.write_bytes(gzip.compress(path.read_bytes()))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in TALK))
    assert exported(path) == [["Why?", "So."]]  # a row without an answer trains nothing
    assert "How?" in shown(path)


@pytest.mark.parametrize("odd", [["a", "b"], {"a": 1}, 7, 1.5, None], ids=str)
def test_something_else_under_the_name_of_a_text(tmp_path: Path, odd: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"instruction": odd, "response": "So.", "id": {"x": 1}}) + "\n" for _ in TALK)
    )
    kept = isinstance(odd, int | float)
    if kept:
        assert exported(path) == [[str(odd), "So."]] * 2
        assert str(odd) in shown(path)
    rows = report_rows(str(path))
    assert rows.table["id"].null_count == 2


def test_messages_that_are_maps(tmp_path: Path) -> None:
    kind = pa.list_(pa.map_(pa.string(), pa.string()))
    turns = [[("role", "user"), ("content", "Why?")], [("role", "assistant"), ("content", "So.")]]
    pq.write_table(pa.table({"messages": pa.array([turns], kind)}), tmp_path / "rows.parquet")
    assert exported(tmp_path / "rows.parquet") == [["Why?", "So."]]


def test_a_text_without_end_is_cut_on_its_card_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"instruction": "word " * 10_000, "response": "So."}) + "\n")
    assert "[29,999 more characters]" in shown(path)
    assert exported(path) == [["word " * 10_000, "So."]]


def test_a_dataset_of_others_without_ids_and_messages_gets_a_card(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{**row, "license": "mit\u202e"} for row in TALK]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "all.yaml").write_text("name: all\nrules: [{name: all, where: instruction IS NOT NULL}]\n")
    refilter(Published(path), load_filter(tmp_path / "all.yaml"), tmp_path / "kept")
    card = make_card(open_source(tmp_path / "kept"), with_figures=False).text
    assert "row 1" in card and "So." in card and "\u202e" not in card
