from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import scripted, small_recipe

from magpie.build import build
from magpie.errors import MagpieError, RunError, StorageError
from magpie.publish.formats import export
from magpie.runs.run import Run
from magpie.storage import open_storage

CALM = {"mix": [{"temperature": 0.8, "top_p": 0.95}]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = small_recipe(models=scripted(cut_rate=0.1), filter=None)
    return build(recipe, tmp_path_factory.mktemp("runs") / "several-turns")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(small_recipe(extend=None, instruct=CALM), tmp_path_factory.mktemp("runs") / "one-turn")


def rows_of(run: Run) -> list[dict[str, Any]]:
    return pa.concat_tables(pq.read_table(path) for path in files_of(run)).to_pylist()


def files_of(run: Run) -> list[Path]:
    return [run.storage.local_path(name) for name in run.dataset_files.names()]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def loaded(path: Path, tmp_path: Path) -> list[dict[str, Any]]:
    import datasets

    kind = "parquet" if path.suffix == ".parquet" else "json"
    return list(
        datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    )


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_messages_are_the_dataset(finished: Run, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"rows.{ending}"
    written = export(finished, format="messages", out=out).rows
    expected = rows_of(finished)
    back = loaded(out, tmp_path)
    assert written == len(expected) == len(back) > 20
    assert [row["messages"] for row in back] == [row["messages"] for row in expected]
    assert list(back[0]) == list(expected[0])
    for column in ("id", "task_category", "difficulty", "instruct_seed", "generator"):
        assert [row[column] for row in back] == [row[column] for row in expected]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_sharegpt_names_the_speakers(finished: Run, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"rows.{ending}"
    export(finished, format="sharegpt", out=out)
    back = loaded(out, tmp_path)
    roles = {"human": "user", "gpt": "assistant"}
    turned_back = [
        [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]
        for row in back
    ]
    assert turned_back == [row["messages"] for row in rows_of(finished)]
    assert "messages" not in back[0]
    assert [row["input_quality"] for row in back] == [row["input_quality"] for row in rows_of(finished)]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_alpaca_ends_with_the_last_turn_and_remembers_the_others(
    finished: Run, tmp_path: Path, ending: str
) -> None:
    out = tmp_path / f"rows.{ending}"
    export(finished, format="alpaca", out=out)
    back = loaded(out, tmp_path)
    for row, source in zip(back, rows_of(finished), strict=True):
        pairs = [*row["history"], [row["instruction"], row["output"]]]
        assert [text for pair in pairs for text in pair] == [turn["content"] for turn in source["messages"]]
        assert row["input"] == ""
        assert "response" not in row and "messages" not in row
    assert max(len(row["history"]) for row in back) == 2


def test_alpaca_of_one_turn_has_no_history(single: Run, tmp_path: Path) -> None:
    export(single, format="alpaca", out=tmp_path / "rows.jsonl")
    rows = lines_of(tmp_path / "rows.jsonl")
    assert "history" not in rows[0]
    assert [row["output"] for row in rows] == [row["messages"][1]["content"] for row in rows_of(single)]


def test_alpaca_refuses_a_message_without_an_answer(tmp_path: Path) -> None:
    run = build(small_recipe(respond=None, extend=None, filter=None), tmp_path / "run")
    with pytest.raises(RunError, match=r"without an answer.*--format messages"):
        export(run, format="alpaca", out=tmp_path / "rows.jsonl")
    assert not list(tmp_path.glob("*rows*")), "neither the file nor its beginnings are left"
    assert export(run, format="sharegpt", out=tmp_path / "rows.jsonl").rows > 0


def test_settings_read_as_they_were_written(single: Run, tmp_path: Path) -> None:
    export(single, format="messages", out=tmp_path / "rows.jsonl")
    row = lines_of(tmp_path / "rows.jsonl")[0]
    assert (row["temperature"], row["top_p"], row["min_p"]) == (0.8, 0.95, 0.0)


def test_lines_hold_any_text_and_no_invalid_json(single: Run, tmp_path: Path) -> None:
    text = 'a "quoted"\nline\u2028\x1b[2J 語 😀\x00'
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
    table = pq.read_table(files_of(single)[0]).slice(0, 1)
    table = table.set_column(
        table.column_names.index("messages"),
        "messages",
        pa.array([messages], table.schema.field("messages").type),
    )
    at = table.column_names.index("min_neighbor_distance")
    table = table.set_column(at, "min_neighbor_distance", pa.array([float("nan")], pa.float32()))
    other = Run(open_storage(tmp_path / "run"), single.recipe, single.steps)
    other.dataset_files.write(iter([table]), 1, name="one-turn", made_from="")
    for format in ("messages", "sharegpt", "alpaca"):
        assert export(other, format=format, out=tmp_path / f"{format}.jsonl").rows == 1
        (row,) = lines_of(tmp_path / f"{format}.jsonl")
        assert row["min_neighbor_distance"] is None
    assert row["instruction"] == text and row["output"] == text


def test_an_empty_dataset_keeps_its_columns(tmp_path: Path) -> None:
    nothing = {"name": "nothing", "rules": [{"name": "nothing", "where": "false"}]}
    run = build(small_recipe(filter=nothing), tmp_path / "run")
    assert export(run, format="sharegpt", out=tmp_path / "rows.parquet").rows == 0
    assert "conversations" in pq.read_schema(tmp_path / "rows.parquet").names
    assert export(run, format="alpaca", out=tmp_path / "rows.jsonl").rows == 0
    assert (tmp_path / "rows.jsonl").read_text() == ""


def test_an_unknown_ending_says_what_to_write(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(MagpieError, match=r"'rows\.csv'.*\.jsonl.*\.parquet"):
        export(finished, format="messages", out=tmp_path / "rows.csv")


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run", stop_after="clean")
    with pytest.raises(RunError, match="run the build again"):
        export(run, format="messages", out=tmp_path / "rows.jsonl")


def test_a_place_that_cannot_be_written_is_one_clear_error(finished: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        export(finished, format="messages", out=tmp_path / "file" / "rows.jsonl")


def test_an_earlier_export_stays_until_the_new_one_is_whole(
    single: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rows.jsonl"
    export(single, format="messages", out=out)
    before = out.read_bytes()
    damaged = Run(open_storage(tmp_path / "run"), single.recipe, single.steps)
    half = pq.read_table(files_of(single)[0])
    monkeypatch.setattr("magpie.data.dataset.ROWS_PER_FILE", half.num_rows)
    damaged.dataset_files.write(iter([half, half]), 2 * half.num_rows, name="one-turn", made_from="")
    second = files_of(damaged)[1]
    second.write_bytes(second.read_bytes()[:-40])
    with pytest.raises(RunError, match="train-00001"):
        export(damaged, format="messages", out=out, overwrite=True)
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("rows")] == ["rows.jsonl"]
