"""Datasets are put together and parted: ids apart, near instructions once or on one side, no row lost in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import dataset_rows

import magpie
from magpie.data.near import embedder_named, near_texts
from magpie.engines.embedder import encode_all
from magpie.errors import RunError

LLAMA, APACHE = "meta-llama/Meta-Llama-3-8B-Instruct", "Qwen/Qwen3-8B"


def dataset(folder: Path, texts: list[str], **columns: Any) -> Path:
    rows = [
        {"instruction": text, "response": f"Answer to {text}", **{name: values[at] for name, values in columns.items()}}
        for at, text in enumerate(texts)
    ]  # fmt: skip
    source = folder.with_suffix(".jsonl")
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    magpie.import_dataset(source, folder)
    return folder


def test_the_same_instruction_of_a_later_dataset_goes_out(tmp_path: Path) -> None:
    a = dataset(tmp_path / "a", ["Name a bird.", "Name a bird.", "Why is it so?"], generator=[LLAMA] * 3)
    b = dataset(
        tmp_path / "b", ["Ｎame a bird.", "Count to ten.", "Count to ten."], generator=[APACHE, APACHE, "x"]
    )
    c = dataset(tmp_path / "c", ["Count to ten.", "Sing."], license=["cc-by-4.0", None])
    result = magpie.merge([a, b, c], tmp_path / "all", embedder=None)
    assert (result.rows_in, result.rows) == (8, 6)
    assert [(one.rows, one.examples) for one in result.left_out] == [(1, ("b-0000000",)), (1, ("c-0000000",))]
    rows = dataset_rows(tmp_path / "all")
    assert [row["instruction"] for row in rows] == [
        "Name a bird.", "Name a bird.", "Why is it so?", "Count to ten.", "Count to ten.", "Sing."
    ]  # fmt: skip
    assert [row["source"] for row in rows] == ["a", "a", "a", "b", "b", "c"]
    assert [row["license"] for row in rows] == ["llama3", "llama3", "llama3", "apache-2.0", None, None]
    assert [row["generator"] for row in rows] == [LLAMA, LLAMA, LLAMA, APACHE, "x", None]
    assert not magpie.verify(tmp_path / "all")
    about = json.loads((tmp_path / "all" / ".manifest.json").read_text())["about"]
    assert [one["rows"] for one in about["merged"]] == [3, 3, 2]


def test_ids_that_collide_are_kept_apart_and_still_name_their_neighbours(tmp_path: Path) -> None:
    ids = {"id": ["r1", "r2"], "min_similar_id": ["r2", "r1"]}
    a, b = (
        dataset(tmp_path / "a", ["One?", "Two?"], **ids),
        dataset(tmp_path / "b", ["Three?", "Four?"], **ids),
    )
    (tmp_path / "x").mkdir()
    c = dataset(tmp_path / "x" / "a", ["Five?", "Six?"], **ids)
    result = magpie.merge([a, b, c], tmp_path / "all", embedder=None)
    assert result.renamed == ("b", "a-2")
    rows = dataset_rows(tmp_path / "all")
    assert [row["id"] for row in rows] == ["r1", "r2", "b/r1", "b/r2", "a-2/r1", "a-2/r2"]
    assert [row["min_similar_id"] for row in rows] == ["r2", "r1", "b/r2", "b/r1", "a-2/r2", "a-2/r1"]
    assert not magpie.verify(tmp_path / "all")


def test_near_texts_are_those_that_a_comparison_of_all_finds() -> None:
    rng = np.random.default_rng(3)
    words = ["bird", "ship", "tree", "stone", "river", "cloud", "lamp", "song", "wheel", "glass"]
    texts = [" ".join(rng.choice(words, 4)) for _ in range(120)] + ["ship bird", "Ship  bird"]
    near = near_texts(texts, embedder_named("scripted"), 0.1)
    vectors = encode_all(embedder_named("scripted"), texts).astype(np.float16).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    distances = np.square(vectors[:, None] - vectors[None]).sum(2)
    pairs = {(int(i), int(j)) for i, j in zip(near.one, near.other, strict=True)}
    pairs |= {(j, i) for i, j in pairs}
    found = near.kind[:, None] == near.kind[None]
    found |= np.array([[(int(i), int(j)) in pairs for j in near.kind] for i in near.kind])
    assert (found == (distances < 0.1)).all()
    assert found.sum() > len(texts)


def test_a_merge_leaves_no_near_pair_across_datasets(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    words = ["bird", "ship", "tree", "stone", "river", "cloud", "lamp", "song", "wheel", "glass"]
    parts = [[" ".join(rng.choice(words, 3)) for _ in range(60)] for _ in range(3)]
    folders = [dataset(tmp_path / f"d{at}", part) for at, part in enumerate(parts)]
    result = magpie.merge(folders, tmp_path / "all", embedder="scripted", threshold=0.2)
    rows = dataset_rows(tmp_path / "all")
    assert 60 < result.rows < 180 and result.rows_in == 180 == result.rows + sum(
        one.rows for one in result.left_out
    )
    near = near_texts([row["instruction"] for row in rows], embedder_named("scripted"), 0.2)
    sides = [{rows[at]["source"] for at in np.flatnonzero(near.kind == kind)} for kind in range(near.kinds)]
    assert all(len(side) < 2 for side in sides)
    assert all(sides[i] == sides[j] for i, j in zip(near.one, near.other, strict=True))
    # And each row that is out is near one that was kept of an earlier dataset: the first dataset lost none.
    assert sum(row["source"] == "d0" for row in rows) == 60


def test_what_does_not_go_together_is_one_clear_line(tmp_path: Path) -> None:
    a = dataset(tmp_path / "a", ["One?"], score=[1])
    b = dataset(tmp_path / "b", ["Two?"], score=["high"])
    with pytest.raises(RunError, match="do not go together: column 'score'"):
        magpie.merge([a, b], tmp_path / "all", embedder=None)
    with pytest.raises(RunError, match="give two datasets"):
        magpie.merge([a], tmp_path / "all", embedder=None)
    with pytest.raises(RunError, match="lies in"):
        magpie.merge([a, b], a / "all", embedder=None)
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "Q?", "chosen": "A", "rejected": "B"}))
    magpie.import_dataset(tmp_path / "p.jsonl", tmp_path / "p")
    with pytest.raises(RunError, match="holds pairs of preference"):
        magpie.merge([tmp_path / "p", a], tmp_path / "all", embedder=None)
    assert not (tmp_path / "all").exists()


def test_a_split_cuts_no_group_of_near_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    words = [
        "bird",
        "ship",
        "tree",
        "stone",
        "river",
        "cloud",
        "lamp",
        "song",
        "wheel",
        "glass",
        "moon",
        "sand",
    ]
    texts = [" ".join(rng.choice(words, 3)) for _ in range(100)] + ["Name a bird."] * 10
    folder = dataset(tmp_path / "a", texts)
    result = magpie.split(folder, tmp_path / "parts", test=0.2, seed=4, embedder="scripted", threshold=0.1)
    train, test = (dataset_rows(tmp_path / "parts" / side) for side in ("train", "test"))
    assert (result.rows_in, result.train, result.test) == (110, len(train), len(test)) == (110, 88, 22)
    assert sorted(row["id"] for row in train + test) == sorted(row["id"] for row in dataset_rows(folder))
    near = near_texts([row["instruction"] for row in train + test], embedder_named("scripted"), 0.1)
    assert not {*near.kind[:88]} & {*near.kind[88:]}
    sides = [{at < 88 for at in np.flatnonzero(near.kind == kind)} for kind in range(near.kinds)]
    assert all(sides[i] == sides[j] for i, j in zip(near.one, near.other, strict=True))
    assert result.groups > 1 and result.largest >= 10
    again = magpie.split(folder, tmp_path / "parts", test=0.2, seed=4, embedder="scripted", threshold=0.1)
    assert again == result and dataset_rows(tmp_path / "parts" / "test") == test
    magpie.split(folder, tmp_path / "other", test=0.2, seed=5, embedder="scripted", threshold=0.1)
    assert dataset_rows(tmp_path / "other" / "test") != test


def test_datasets_finds_both_sides_of_a_split(tmp_path: Path) -> None:
    import datasets

    folder = dataset(tmp_path / "a", [f"Question {at}?" for at in range(20)])
    magpie.split(folder, tmp_path / "parts", test=0.25, embedder=None)
    loaded = datasets.load_dataset(str(tmp_path / "parts"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 15, "test": 5}
    for side in ("train", "test"):
        assert not magpie.verify(tmp_path / "parts" / side)
        magpie.export(tmp_path / "parts" / side, "messages", tmp_path / f"{side}.jsonl")


def test_a_split_that_cannot_be_is_one_clear_line(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "a", ["One?"] * 9 + ["Two?"])
    for test in (0.0, 1.0, 7):
        with pytest.raises(RunError, match="no share of the rows"):
            magpie.split(folder, tmp_path / "parts", test=test, embedder=None)
    with pytest.raises(RunError, match="would take none"):
        magpie.split(folder, tmp_path / "parts", test=0.01, embedder=None)
    with pytest.raises(RunError, match="lies in"):
        magpie.split(folder, folder / "parts", test=0.1, embedder=None)
    assert not (tmp_path / "parts").exists()


def test_columns_that_follow_from_a_row_are_made_on_demand(tmp_path: Path) -> None:
    turns = [{"from": who, "value": f"{who} {at}"} for at in (1, 2, 3) for who in ("human", "gpt")]
    rows = {"id": ["a"], "conversations": [turns], "generator": [LLAMA], "response_finish_reason": ["stop"]}
    pq.write_table(pa.table(rows), tmp_path / "set.parquet")
    names = [
        "uuid",
        "instruction",
        "response_length",
        "instruction_2",
        "response_3",
        "turns",
        "license",
        "finish_reason",
    ]
    magpie.export(tmp_path / "set.parquet", "messages", tmp_path / "x.jsonl", columns=names)
    row = json.loads((tmp_path / "x.jsonl").read_text())
    assert [row[name] for name in names] == ["a", "human 1", 5, "human 2", "gpt 3", 3, "llama3", "stop"]
    explained = {column.name: column for column in magpie.columns(tmp_path / "set.parquet")}
    assert explained["license"].meaning and not explained["license"].in_dataset
