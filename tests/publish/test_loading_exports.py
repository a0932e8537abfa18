"""Every export loads in what reads it, whatever is sparse, nested or null."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import small_recipe

from magpie.build import build
from magpie.data.dataset import DatasetFiles
from magpie.publish.formats import export
from magpie.publish.survey import survey
from magpie.storage import open_storage

ROWS = 400
CHUNK = 1 << 14  # in the place of the 10 MB that `datasets` reads at once


def last(value: Any) -> list[Any]:
    """Null in all rows but the last."""
    return [None] * (ROWS - 1) + [value]


def sparse() -> pa.Table:
    pair = pa.struct([("name", pa.string()), ("score", pa.float32())])
    text = "some words that make the row long enough to fill a chunk with few rows " * 3
    return pa.table(
        {
            "id": [f"r-{at}" for at in range(ROWS)],
            "messages": pa.array(
                [[{"role": "user", "content": text}, {"role": "assistant", "content": str(at)}] for at in range(ROWS)],
                pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
            ),
            "error": pa.array(last("the model failed"), pa.string()),
            "date": pa.array(["2026-01-02", *last("two days later")[1:]], pa.string()),
            "reward": pa.array(last(1.5), pa.float32()),
            "whole": pa.array([1.0] * (ROWS - 1) + [0.25], pa.float64()),
            "count": pa.array(last(3), pa.int32()),
            "flag": pa.array(last(True), pa.bool_()),
            "kinds": pa.array([[]] * (ROWS - 1) + [["email"]], pa.list_(pa.string())),
            "turns": pa.array(last([{"name": "a", "score": None}, {"name": None, "score": 0.5}]), pa.list_(pair)),
            "nested": pa.array([{"name": None, "score": None}] * (ROWS - 1) + [{"name": "b", "score": 2.0}], pair),
            "deep": pa.array([[None], [[]], *last([["x"]])[2:]], pa.list_(pa.list_(pa.string()))),
            "nothing": pa.nulls(ROWS, pa.string()),
            "not a number": pa.array([float("nan")] * ROWS, pa.float32()),
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sparse") / "set"
    path.mkdir()
    files = DatasetFiles(open_storage(path))
    files.write(iter([sparse()]), ROWS, name="sparse", made_from="test")
    return path


def loaded(path: Path, cache: Path, **options: Any) -> list[dict[str, Any]]:
    import datasets

    kind = "parquet" if path.suffix == ".parquet" else "json"
    files = str(path)
    return list(datasets.load_dataset(kind, data_files=files, split="train", cache_dir=str(cache), **options))


def by_id(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: int(row["id"].rpartition("-")[2]))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.jsonl.gz", "rows.parquet"])
def test_sparse_and_nested_columns_load_in_datasets(folder: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    assert export(folder, format="messages", out=out).rows == ROWS
    options = {} if name.endswith(".parquet") else {"chunksize": CHUNK}
    rows = by_id(loaded(out, tmp_path / "cache", **options))
    expected = sparse().drop_columns(["not a number"]).to_pylist()
    assert [{key: value for key, value in row.items() if key != "not a number"} for row in rows] == expected


def test_the_rows_that_show_the_types_come_first_and_the_others_in_order(
    folder: Path, tmp_path: Path
) -> None:
    export(folder, format="messages", out=tmp_path / "rows.jsonl")
    ids = [json.loads(line)["id"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert ids == ["r-0", f"r-{ROWS - 1}", *(f"r-{at}" for at in range(1, ROWS - 1))]
    export(folder, format="messages", out=tmp_path / "rows.json")
    assert [row["id"] for row in json.loads((tmp_path / "rows.json").read_text())] == [
        f"r-{at}" for at in range(ROWS)
    ]


def test_pandas_reads_every_form(folder: Path, tmp_path: Path) -> None:
    for name in ("rows.jsonl", "rows.jsonl.gz", "rows.json"):
        export(folder, format="sharegpt", out=tmp_path / name)
        read = pd.read_json(tmp_path / name, lines=".jsonl" in name)
        assert len(read) == ROWS and list(read["reward"].dropna()) == [1.5]
    export(folder, format="sharegpt", out=tmp_path / "rows.parquet")
    assert len(pd.read_parquet(tmp_path / "rows.parquet")) == ROWS


def test_polars_reads_lines_and_parquet(folder: Path, tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    export(folder, format="messages", out=tmp_path / "rows.jsonl")
    export(folder, format="messages", out=tmp_path / "rows.parquet")
    assert polars.read_ndjson(tmp_path / "rows.jsonl")["error"].drop_nulls().to_list() == ["the model failed"]
    assert polars.read_parquet(tmp_path / "rows.parquet").height == ROWS


def test_duckdb_reads_lines(folder: Path, tmp_path: Path) -> None:
    import duckdb

    out = tmp_path / "rows.jsonl"
    export(folder, format="messages", out=out)
    query = f"SELECT count(*), max(reward), max(error) FROM read_json('{out}', sample_size=20)"
    assert duckdb.sql(query).fetchall() == [(ROWS, 1.5, "the model failed")]


@pytest.mark.parametrize("format", ["messages", "sharegpt", "alpaca", "magpie"])
def test_a_run_whose_rewards_fail_for_one_row_loads(tmp_path: Path, format: Any) -> None:
    """`reward_error` is null in all rows but few, none of them among the first."""
    models = {
        "generator": {"model": "scripted", "script": {"min_tokens": 60, "max_tokens": 90, "repeat_rate": 0}},
        "reward": {"model": "scripted", "script": {"failure_rate": 0.01}},
    }
    recipe = small_recipe(
        rows=320, shard_rows=80, models=models, embed=None, dedup=None, tag=None, extend=None, reward={}, filter=None,
    )  # fmt: skip
    run = build(recipe, tmp_path / "run")
    failed = [at for at, error in enumerate(run.dataset()["reward_error"]) if error is not None]
    assert failed and failed[0] > 20
    export(run, format=format, out=tmp_path / "rows.jsonl")
    rows = loaded(tmp_path / "rows.jsonl", tmp_path / "cache", chunksize=CHUNK)
    assert len(rows) == 320
    if format != "magpie":
        assert sum(row["reward_error"] is not None for row in rows) == len(failed)


def test_no_row_is_moved_where_the_first_ones_show_everything() -> None:
    table = pa.table({"a": [1, 2], "b": ["x", None], "c": pa.array([[1.0], []], pa.list_(pa.float32()))})
    assert survey([table]).showing == [0]
    assert survey([table.slice(0, 0)]).showing == []


def test_times_bytes_decimals_and_maps_are_written_as_json_has_them(tmp_path: Path) -> None:
    import datetime
    from decimal import Decimal

    moment = datetime.datetime(2026, 1, 2, 3, 4, 5)
    table = pa.table(
        {
            "instruction": ["a"],
            "response": ["b"],
            "when": pa.array([moment], pa.timestamp("us")),
            "day": pa.array([moment.date()]),
            "price": pa.array([Decimal("1.50")]),
            "raw": pa.array([b"text"]),
            "kind": pa.array(["x"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "set.parquet")
    export(tmp_path / "set.parquet", format="messages", out=tmp_path / "rows.jsonl")
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert row["when"] == "2026-01-02T03:04:05" and row["day"] == "2026-01-02"
    assert (row["price"], row["raw"], row["kind"]) == (1.5, "text", "x")
    assert [turn["content"] for turn in row["messages"]] == ["a", "b"]


ODD: dict[str, dict[str, Any]] = {
    "no messages": {"messages": pa.array([None, []], pa.list_(pa.struct([("role", pa.string())])))},
    "other roles": {"conversations": [[{"from": "HUMAN", "value": "q"}, {"from": "Tool", "value": "r"}]]},
    "parts": {"messages": [[{"role": "user", "content": [{"type": "text", "text": "q"}]}]]},
    "images": {"messages": [[{"role": "user", "content": [{"type": "image", "url": "x"}]}]]},
    "a map": {"m": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64()))},
    "half floats": {"f": pa.array([1.5, None], pa.float16())},
    "fixed lists": {"f": pa.array([[1.5, 2.0], None], pa.list_(pa.float32(), 2))},
    "large lists": {"f": pa.array([[1.5, 2.0], None], pa.large_list(pa.float64()))},
    "durations": {"t": pa.array([1, None], pa.duration("s"))},
    "bytes": {"b": pa.array([b"\xff", None])},
    "no type": {"n": pa.nulls(2)},
    "a nested null": {"n": pa.array([None, {"a": None}], pa.struct([("a", pa.null())]))},
    "a nested NaN": {"n": pa.array([{"a": float("nan")}, {"a": 0.1}], pa.struct([("a", pa.float32())]))},
    "large numbers": {"n": pa.array([2**63, None], pa.uint64())},
    "a name without letters": {"": [1, 2]},
    "texts for numbers": {"instruct_reward": ["high", None], "repeat_count": [1.5, None]},
    "texts for a struct": {"gen_input_configs": ["x", None]},
    "no rows": {"instruction": pa.array([], pa.string()), "response": pa.array([], pa.string())},
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_set_loads_or_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    import io

    from rich.console import Console

    import magpie

    columns = ODD[name]
    length = len(next(iter(columns.values())))
    table = {"instruction": ["q"] * length, "response": ["r"] * length} | columns
    source = tmp_path / "set.parquet"
    pq.write_table(pa.table(table), source)
    for number, format in enumerate(("messages", "sharegpt", "alpaca", "magpie")):
        for ending in ("jsonl", "json", "parquet"):
            out = tmp_path / f"{number}.{ending}"
            try:
                done = export(
                    source, format=format, out=out, drop_empty=ending == "json", drop_constant=ending == "parquet"
                )  # fmt: skip
            except magpie.MagpieError as error:
                assert "\n" not in str(error) and not out.exists()
                continue
            assert done.rows + sum(reason.rows for reason in done.left_out) == length
            if done.rows:
                loaded(out, tmp_path / "cache")
    console = Console(file=io.StringIO())
    assert magpie.columns(source)
    try:
        magpie.show(source, console=console)
        magpie.show(source, 0, console=console)
    except magpie.MagpieError as error:
        assert "\n" not in str(error)
