"""Which rows an export holds, in which order and in which files; rows in = rows out + reasons."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers_made import small

import magpie
from magpie.errors import MagpieError
from magpie.publish import ordering

ROWS = 100
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred rows of one to three turns; every tenth has no answer, and every seventh a system message."""
    folder = tmp_path_factory.mktemp("set")
    talks = []
    for at in range(ROWS):
        talk = [{"role": "system", "content": "Be brief."}] if at % 7 == 0 else []
        for turn in range(1 + at % 3):
            talk += [{"role": "user", "content": f"Question {at}.{turn}?"}]
            talk += [{"role": "assistant", "content": f"Answer {at}.{turn}. " + "word " * at}]
        talks.append(talk[:-1] if at % 10 == 9 else talk)
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    rows = {
        "id": [f"r{at:03d}" for at in range(ROWS)],
        "messages": pa.array(talks, kind),
        "score": list(range(ROWS)),
    }
    pq.write_table(pa.table(rows), folder / "set.parquet", row_group_size=17)
    return folder / "set.parquet"


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    data = path.read_bytes()
    return [
        json.loads(line) for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()
    ]


def ids(path: Path) -> list[str]:
    return [row["id"] for row in rows_of(path)]


def manifest(out: Path) -> dict[str, Any]:
    return dict(json.loads(out.with_name(f".{out.name}.manifest.json").read_text()))


def test_a_rule_chooses_rows_and_the_manifest_says_why_others_are_out(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    result = magpie.export(source, "messages", out, where="score >= 40 AND turns < 3", limit=20)
    assert (result.rows_in, result.rows) == (ROWS, 20) and len(ids(out)) == 20
    told = manifest(out)
    assert told["rows_in"] == ROWS == told["rows"] + sum(one["rows"] for one in told["left_out"])
    assert [one["reason"] for one in told["left_out"]] == [
        "--where score >= 40 AND turns < 3 does not hold", "beyond --limit 20"
    ]  # fmt: skip
    assert told["left_out"][0]["examples"][0] == "r000" and told["files"][0]["rows"] == 20
    for wrong in ("nothing > 1", "score", "score > (SELECT 1)", "score >"):
        with pytest.raises(MagpieError, match="where"):
            magpie.export(source, "messages", tmp_path / "y.jsonl", where=wrong)
    assert magpie.export(source, "messages", tmp_path / "none.parquet", where="score > 999").rows == 0


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet", "x.jsonl.gz"])
def test_a_shuffle_is_the_permutation_of_its_seed_whatever_fits_in_memory(
    source: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "_BUCKET_ROWS", 7)
    out = tmp_path / name
    magpie.export(source, "messages", out, shuffle=5)
    order = np.random.default_rng(5).permutation(ROWS)
    expected = [f"r{at:03d}" for at in order]
    shown = ids(out)
    # In JSON lines a row that shows the types may come first.
    assert shown == expected or (sorted(shown) == sorted(expected) and name != "x.parquet")
    again = tmp_path / f"again-{name}"
    magpie.export(source, "messages", again, shuffle=5)
    assert rows_of(again) == rows_of(out)
    magpie.export(source, "messages", again, shuffle=6, overwrite=True)
    assert ids(again) != shown and sorted(ids(again)) == sorted(shown)


def test_parts_and_files_hold_every_row_once(source: Path, tmp_path: Path) -> None:
    result = magpie.export(source, "sharegpt", tmp_path / "x.parquet", split="0.8/0.1/0.1", rows_per_file=30)
    names = [path.name for path in result.files]
    assert names == [
        "x-train-00000-of-00003.parquet", "x-train-00001-of-00003.parquet", "x-train-00002-of-00003.parquet",
        "x-validation-00000-of-00001.parquet", "x-test-00000-of-00001.parquet",
    ]  # fmt: skip
    assert [len(rows_of(tmp_path / name)) for name in names] == [30, 30, 20, 10, 10]
    assert sorted(row for name in names for row in ids(tmp_path / name)) == [
        f"r{at:03d}" for at in range(ROWS)
    ]
    train = [row for name in names[:3] for row in ids(tmp_path / name)]
    assert train == sorted(train), "without a shuffle the rows stay in their order"
    with pytest.raises(MagpieError, match="is there already"):
        magpie.export(source, "sharegpt", tmp_path / "x.parquet", split="0.8/0.1/0.1", rows_per_file=30)
    for wrong in ("0.5", "0.5/0.6", "a/b", "1/0", "0.2/0.2/0.2/0.4"):
        with pytest.raises(MagpieError, match=r"such as 0.98/0.02"):
            magpie.export(source, "sharegpt", tmp_path / "y.parquet", split=wrong)
    magpie.export(source, "messages", tmp_path / "z.jsonl", split="0.5/0.5", shuffle=1)
    halves = [ids(tmp_path / f"z-{name}.jsonl") for name in ("train", "test")]
    assert [len(half) for half in halves] == [50, 50] and len({*halves[0], *halves[1]}) == ROWS


def test_tokens_are_those_of_the_conversation_as_the_template_writes_it(source: Path, tmp_path: Path) -> None:
    folder = small(tmp_path / "tokenizer", template=TEMPLATE)
    out = tmp_path / "x.jsonl"
    result = magpie.export(source, "messages", out, max_tokens=120, tokenizer=str(folder))
    assert 0 < result.rows < ROWS and result.left_out[0].reason.startswith("more than 120 tokens of ")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    counts = {
        row["id"]: len(
            tokenizer.encode(
                tokenizer.apply_chat_template(row["messages"], tokenize=False), add_special_tokens=False
            )
        )
        for row in pq.read_table(source).to_pylist()
    }
    assert sorted(ids(out)) == sorted(name for name, count in counts.items() if count <= 120)
    magpie.export(source, "text", tmp_path / "t.jsonl", tokenizer=str(folder), limit=3)
    first = pq.read_table(source).to_pylist()[0]["messages"]
    assert rows_of(tmp_path / "t.jsonl")[0] == {"text": tokenizer.apply_chat_template(first, tokenize=False)}
    for format, options in (("text", {}), ("messages", {"max_tokens": 9})):
        with pytest.raises(MagpieError, match="--tokenizer"):
            magpie.export(source, format, tmp_path / "y.jsonl", **options)  # type: ignore[arg-type]


def test_a_row_that_a_format_cannot_hold_is_left_out_and_counted(source: Path, tmp_path: Path) -> None:
    for format, name in (("alpaca", "a.jsonl"), ("openai", "o.jsonl"), ("llama-factory", "l.jsonl")):
        result = magpie.export(source, format, tmp_path / name)  # type: ignore[arg-type]
        assert (result.rows, [one.rows for one in result.left_out]) == (90, [10])
        assert "without an answer" in result.left_out[0].reason and result.left_out[0].examples[0] == "r009"
    assert {*rows_of(tmp_path / "o.jsonl")[0]} == {"messages"}
    result = magpie.export(source, "csv", tmp_path / "c.csv")
    reasons = {one.reason: one.rows for one in result.left_out}
    assert result.rows + sum(reasons.values()) == ROWS and len(reasons) == 3
    with (tmp_path / "c.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == ["instruction", "input", "output"] and len(rows) == result.rows
    with pytest.raises(MagpieError, match=r"end --out in \.csv"):
        magpie.export(source, "csv", tmp_path / "c.jsonl")


def test_names_of_trl_are_names_of_the_forms_that_it_takes(source: Path, tmp_path: Path) -> None:
    magpie.export(source, "messages", tmp_path / "a.jsonl")
    magpie.export(source, "trl-sft", tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_features_are_those_that_were_written(source: Path, tmp_path: Path) -> None:
    import datasets

    out = tmp_path / "x.parquet"
    magpie.export(source, "messages", out, columns=["instruction_length", "score"])
    rows = datasets.load_dataset(
        "parquet", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache")
    )
    text = datasets.Value("string")
    assert rows.features == datasets.Features(
        {
            "messages": datasets.List({"role": text, "content": text}),
            "instruction_length": datasets.Value("int32"),
            "score": datasets.Value("int64"),
        }
    )
