"""Datasets that were made elsewhere become datasets of magpie's own; rows in = rows out + reasons."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import dataset_rows

import magpie
from magpie.data.importing import Imported
from magpie.errors import RecipeError, RunError

Q, A = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
S = {"role": "system", "content": "Be brief."}
TWO = [Q, A, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "So."}]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def imported(tmp_path: Path, rows: list[Any], **options: Any) -> tuple[Imported, list[dict[str, Any]]]:
    result = magpie.import_dataset(lines(tmp_path / "set.jsonl", rows), tmp_path / "out", **options)
    assert result.rows_in == len(rows) == result.rows + sum(one.rows for one in result.left_out)
    assert not magpie.verify(tmp_path / "out")
    return result, dataset_rows(tmp_path / "out")


FORMS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "messages": ({"messages": [S, *TWO]}, [S, *TWO]),
    "openai parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}, {**A, "weight": 1}]},
        [Q, A],
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]},
        [Q, A],
    ),
    "sharegpt with a system column": (
        {"system": "Be brief.", "conversations": [{"from": "human", "value": "Why?"}]},
        [S, Q],
    ),
    "alpaca": ({"instruction": "Add.", "input": "1, 2", "output": "3"}, [
        {"role": "user", "content": "Add.\n1, 2"}, {"role": "assistant", "content": "3"}]),
    "alpaca with history and system": (
        {"instruction": "And?", "input": "", "output": "So.", "history": [["Why?", "Because."]], "system": "Be brief."},
        [S, *TWO],
    ),
    "an answer that is a number": ({"instruction": "Why?", "output": 42}, [Q, {"role": "assistant", "content": "42"}]),
    "an instruction alone": ({"prompt": "Why?"}, [Q]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_form_becomes_messages(tmp_path: Path, name: str) -> None:
    row, messages = FORMS[name]
    _, (back,) = imported(tmp_path, [row])
    assert back["messages"] == messages
    assert back["instruction"] == next(turn["content"] for turn in messages if turn["role"] == "user")
    assert back["instruction_length"] == len(back["instruction"])


PAIRS: dict[str, dict[str, Any]] = {
    "trl": {"prompt": [S, Q], "chosen": [A], "rejected": [{**A, "content": "No."}]},
    "trl without a prompt": {"chosen": [S, Q, A], "rejected": [S, Q, {**A, "content": "No."}]},
    "a prompt and whole conversations": {
        "prompt": "Why?",
        "chosen": [Q, A],
        "rejected": [Q, {**A, "content": "No."}],
        "system": "Be brief.",
    },
    "llama-factory": {
        "conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Why?"}],
        "chosen": {"from": "gpt", "value": "Because."},
        "rejected": {"from": "gpt", "value": "No."},
    },
    "alpaca": {"instruction": "Why?", "system": "Be brief.", "chosen": "Because.", "rejected": "No."},
    "openai": {
        "input": {"messages": [S, Q]},
        "preferred_output": [A],
        "non_preferred_output": [{**A, "content": "No."}],
    },
}


@pytest.mark.parametrize("name", PAIRS)
def test_every_form_of_pairs_becomes_pairs(tmp_path: Path, name: str) -> None:
    _, (back,) = imported(tmp_path, [PAIRS[name]])
    assert (back["prompt"], back["chosen"]) == ([S, Q], [A])
    assert back["rejected"] == [{**A, "content": "No."}] and back["messages"] == [S, Q, A]


def test_what_does_not_fit_is_counted_with_its_reason_and_its_row(tmp_path: Path) -> None:
    odd = {
        "a conversation that the assistant begins": [A, Q],
        "two messages of one speaker in a row": [Q, Q, A],
        "a speaker that is not known": [{"role": "narrator", "content": "x"}, A],
        "a message without text": [{"role": "user", "content": " "}, A],
        "a part that is no text, such as an image": [
            {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image", "url": "y"}]},
        ],
        "a message of a tool, which is kept by no format here": [Q, {"role": "tool", "content": "3"}],
        "a call of a tool, which is kept by no format here": [Q, {**A, "tool_calls": [{"id": "1"}]}],
        "a system message after the first": [Q, S, A],
        "no message of the user": [S],
    }
    rows = [
        {"messages": [Q, A]},
        *({"messages": turns} for turns in odd.values()),
        {"text": "x"},
        {"messages": None},
    ]
    result, back = imported(tmp_path, rows)
    reasons = {one.reason: one.examples for one in result.left_out}
    assert [row["messages"] for row in back] == [[Q, A]]
    assert reasons.keys() == {
        *odd, "text alone, which does not say who speaks", "no conversation that can be read"
    }  # fmt: skip
    assert reasons["a conversation that the assistant begins"] == ("set.jsonl row 2",)
    about = json.loads((tmp_path / "out" / ".manifest.json").read_text())["about"]["imported"]
    assert sum(one["rows"] for one in about["left_out"]) == len(rows) - 1


def test_nothing_is_written_where_no_row_fits(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"not one row .* the assistant begins"):
        magpie.import_dataset(lines(tmp_path / "x.jsonl", [{"messages": [A]}]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(RecipeError, match="is not there"):
        magpie.import_dataset(tmp_path / "nothing.jsonl", tmp_path / "out")


def air(count: int, **changes: Any) -> pa.Table:
    """A table like the first published set: its names and forms, with texts of our own."""
    return pa.table(
        {
            "conversation_id": [f"c{at}" for at in range(count)],
            "model": ["meta-llama/Meta-Llama-3-8B-Instruct"] * count,
            "gen_input_configs": [{"temperature": 1.0, "top_p": 0.99, "input_generator": "m", "seed": None}] * count,
            "input": [f"Question {at}?" for at in range(count)],
            "output": [f"Answer {at}." for at in range(count)],
            "conversations": [
                [{"from": "human", "value": f"Question {at}?"}, {"from": "gpt", "value": f"Answer {at}."}]
                for at in range(count)
            ],
            "task_category": ["Math"] * count,
            "input_quality": ["good" if at % 2 else "poor" for at in range(count)],
            "llama_guard_2": ["safe"] * count,
            "instruct_reward": [0.5 + at for at in range(count)],
            "min_similar_conversation_id": [None] * count,
            "input_length": [3] * count,
            **changes,
        }
    )  # fmt: skip


def test_the_published_sets_keep_their_tags_and_scores_under_the_names_here(tmp_path: Path) -> None:
    pq.write_table(air(4), tmp_path / "air.parquet")
    result = magpie.import_dataset(tmp_path / "air.parquet", tmp_path / "first", license="llama3")
    row = dataset_rows(tmp_path / "first")[1]
    assert (row["id"], row["generator"]) == ("c1", "meta-llama/Meta-Llama-3-8B-Instruct")
    assert (row["llama_guard"], row["input_quality"], row["instruct_reward"]) == ("safe", "good", 1.5)
    assert (row["temperature"], row["license"], row["instruction_length"]) == (1.0, "llama3", 11)
    assert not {"input", "output", "conversations", "model", "input_length"} & set(result.columns)
    # The later generation of names, which `export --format magpie` writes, gives the same rows.
    magpie.export(tmp_path / "first", "magpie", tmp_path / "later.parquet")
    magpie.import_dataset(tmp_path / "later.parquet", tmp_path / "second")
    again = dataset_rows(tmp_path / "second")
    for name in ("id", "messages", "generator", "llama_guard", "instruct_reward", "input_quality"):
        assert [row[name] for row in again] == [row[name] for row in dataset_rows(tmp_path / "first")]


def test_published_filters_find_the_columns_of_an_imported_set(tmp_path: Path) -> None:
    alike = [None, "c1", "c1", None]  # the third repeats the second, which is the first of them
    pq.write_table(air(4, min_similar_conversation_id=alike), tmp_path / "air.parquet")
    magpie.import_dataset(tmp_path / "air.parquet", tmp_path / "set")
    (rule,) = (rule for rule in magpie.load_filter("air-300k").rules if "min_similar_uuid" in rule.where)
    result = magpie.filter(tmp_path / "set", magpie.Filter(name="alone", rules=[rule]), tmp_path / "kept")
    assert result.skipped == ()
    assert [row["id"] for row in dataset_rows(tmp_path / "kept")] == ["c0", "c1", "c3"]


def test_an_imported_set_is_filtered_shown_exported_and_verified(tmp_path: Path) -> None:
    pq.write_table(air(4), tmp_path / "air.parquet")
    magpie.import_dataset(tmp_path / "air.parquet", tmp_path / "set")
    rule = {
        "name": "f",
        "rules": [{"name": "good", "where": "input_quality = 'good' AND instruction_length > 2"}],
    }
    kept = magpie.filter(tmp_path / "set", magpie.Filter.model_validate(rule), tmp_path / "kept")
    assert kept.kept == 2 and not magpie.verify(tmp_path / "kept")
    magpie.show(tmp_path / "kept", "c1")
    assert all(column.meaning for column in magpie.columns(tmp_path / "kept") if column.name == "messages")
    magpie.export(tmp_path / "kept", "sharegpt", tmp_path / "x.jsonl")
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 2
    damaged = next((tmp_path / "kept").glob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert any(damaged.name in line for line in magpie.verify(tmp_path / "kept"))
    with pytest.raises(RunError, match="not a run"):
        magpie.verify(tmp_path)


def test_ids_stay_and_are_told_apart(tmp_path: Path) -> None:
    rows = [{"id": "a", "messages": [Q, A]}, {"id": "a", "messages": [Q, A]}, {"messages": [Q, A]}]
    result, back = imported(tmp_path, rows)
    assert [row["id"] for row in back] == ["a", "a-1", "set-0000002"]
    assert any("1 row with the id of an earlier row" in note for note in result.notes)


def test_other_columns_stay_and_what_cannot_is_said(tmp_path: Path) -> None:
    rows = [{"messages": [Q, A], "source": "web", "prompt": "Why?", "answer": "42", "turns": 1}]
    result, (back,) = imported(tmp_path, rows, generator="org/model")
    assert (back["source"], back["answer"], back["turns"], back["generator"]) == ("web", "42", 1, "org/model")
    assert any("left out prompt" in note for note in result.notes) and "prompt" not in back


def test_compressed_files_and_folders_with_splits_are_read(tmp_path: Path) -> None:
    text = json.dumps({"messages": [Q, A]}) + "\n"
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    with pa.output_stream(tmp_path / "b.jsonl.zst", compression="zstd") as file:
        file.write(text.encode())
    for name in ("a.jsonl.gz", "b.jsonl.zst"):
        assert magpie.import_dataset(tmp_path / name, tmp_path / name.partition(".")[0]).rows == 1
    folder = tmp_path / "splits"
    folder.mkdir()
    lines(folder / "train.jsonl", [{"messages": [Q, A]}] * 2)
    lines(folder / "test.jsonl", [{"messages": [Q, A]}])
    assert magpie.import_dataset(folder, tmp_path / "train").rows == 2
    assert magpie.import_dataset(folder, tmp_path / "test", split="test").rows == 1


def test_the_folder_of_the_dataset_and_other_things_are_not_replaced(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", [{"messages": [Q, A]}])
    with pytest.raises(RunError, match="holds the dataset itself"):
        magpie.import_dataset(path, tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(RunError, match="holds other things"):
        magpie.import_dataset(path, tmp_path / "mine")


def test_a_hub_dataset_is_read_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the working directory has the form of a hub name, and is read as files; a name is looked up."""
    import datasets

    held = datasets.Dataset.from_dict({"messages": [[Q, A]] * 3})
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, split: {"org/set": {"train": held}}[name][split]
    )
    assert magpie.import_dataset("org/set", tmp_path / "out").rows == 3
    assert dataset_rows(tmp_path / "out")[2]["id"] == "set-0000002"
    with pytest.raises(RecipeError, match="hub dataset org/other:train cannot be read"):
        magpie.import_dataset("org/other", tmp_path / "out")


def test_labels_are_kept_by_their_names(tmp_path: Path) -> None:
    import datasets

    topics = datasets.ClassLabel(names=["birds", "ships"])
    features = datasets.Features({"prompt": datasets.Value("string"), "topic": topics})
    rows = datasets.Dataset.from_dict({"prompt": ["Why?", "How?"], "topic": [1, 0]}, features=features)
    rows.to_parquet(str(tmp_path / "set.parquet"))
    magpie.import_dataset(tmp_path / "set.parquet", tmp_path / "out")
    assert [row["topic"] for row in dataset_rows(tmp_path / "out")] == ["ships", "birds"]
