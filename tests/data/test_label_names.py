"""A set whose labels are numbers with names: a filter, an export and show give the names."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

import magpie


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A set with a ClassLabel column, as `datasets` writes it."""
    import datasets

    quality = datasets.ClassLabel(names=["poor", "average", "good"])
    rows = {
        "instruction": ["What is a wren?", "Why do swifts scream?"],
        "response": ["A small bird.", "To keep together."],
        "input_quality": [2, 1],
    }
    features = datasets.Features(
        {
            "instruction": datasets.Value("string"),
            "response": datasets.Value("string"),
            "input_quality": quality,
        }
    )
    path = tmp_path / "labelled.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def test_names_of_labels_are_read_filtered_exported_and_shown(
    tmp_path: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "good.yaml"
    rules.write_text("name: good\nrules: [{name: good, where: \"input_quality = 'good'\"}]\n")
    kept = tmp_path / "kept"
    assert magpie.filter(labelled, rules, kept).kept == 1
    for format in ("messages", "magpie"):
        out = tmp_path / f"{format}.jsonl"
        assert magpie.export(kept, format, out).rows == 1
        assert json.loads(out.read_text())["input_quality"] == "good"
    magpie.show(kept, console=Console(width=100))
    assert "good" in capsys.readouterr().out


def test_the_published_form_has_names_in_parquet_too_and_other_forms_say_what_the_numbers_are(
    tmp_path: Path, labelled: Path
) -> None:
    import datasets

    rules = tmp_path / "all.yaml"
    rules.write_text('name: all\nrules: [{name: all, where: "instruction IS NOT NULL"}]\n')
    magpie.filter(labelled, rules, tmp_path / "kept")
    for source in (tmp_path / "kept", labelled):
        out = tmp_path / "magpie.parquet"
        magpie.export(source, "magpie", out, overwrite=True)
        table = pq.read_table(out)
        assert table.schema.field("input_quality").type == pa.string()
        assert table["input_quality"].to_pylist() == ["good", "average"]
        assert (
            datasets.Dataset.from_parquet(str(out), cache_dir=str(tmp_path / "cache"))[0]["input_quality"]
            == "good"
        )
        out = tmp_path / "messages.parquet"
        magpie.export(source, "messages", out, overwrite=True)
        read = datasets.Dataset.from_parquet(str(out), cache_dir=str(tmp_path / "cache"))
        assert read.features["input_quality"].int2str(read["input_quality"][0]) == "good"
