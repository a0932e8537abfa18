"""import, merge, split, verify and export as they are typed: what they print adds up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from magpie.cli import app
from magpie.errors import RecipeError

Capture = pytest.CaptureFixture[str]


def typed(capsys: Capture, *words: object) -> str:
    """What the command prints, in this process."""
    app([str(word) for word in words], standalone_mode=False)
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    answer = {"from": "gpt", "value": "A."}
    rows = [{"conversations": [{"from": "human", "value": f"Q{at}?"}, answer]} for at in range(9)]
    rows.append({"conversations": [answer]})
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_foreign_dataset_goes_in_together_apart_and_out(
    chats: Path, tmp_path: Path, capsys: Capture
) -> None:
    printed = typed(
        capsys, "import", chats, "--out", tmp_path / "one", "--license", "mit", "--generator", "org/model"
    )
    assert "10 rows in, 1 left out:" in printed and "9 rows in" in printed
    assert "a conversation that the assistant begins (chats.jsonl row 10)" in printed
    assert "is whole: 1 file, 9 rows" in typed(capsys, "verify", tmp_path / "one")
    typed(capsys, "import", chats, "--out", tmp_path / "two")
    printed = typed(
        capsys, "merge", tmp_path / "one", tmp_path / "two", "--embedder", "none", "--out", tmp_path / "all"
    )
    assert "the ids of two are those of others" in printed and "18 rows in, 9 left out:" in printed
    printed = typed(
        capsys, "split", tmp_path / "all", "--test", "0.3", "--embedder", "none", "--out", tmp_path / "parts"
    )
    assert "9 rows in" in printed and "6 rows in" in printed and ", 3 in" in printed
    out = tmp_path / "x.jsonl"
    printed = typed(
        capsys,
        "export",
        tmp_path / "parts" / "train",
        "--where",
        "instruction <> 'Q1?'",
        "--shuffle",
        3,
        "--out",
        out,
    )
    assert len(out.read_text().splitlines()) in {5, 6} and "rows in" in printed
    printed = typed(capsys, "export", tmp_path / "all", "--trainer", "axolotl", "--out", tmp_path / "sft")
    assert "axolotl train train.yaml" in printed and (tmp_path / "sft" / "train.sh").is_file()


def test_options_that_do_not_go_together_are_one_clear_line(
    chats: Path, tmp_path: Path, capsys: Capture
) -> None:
    for options, why in (
        (["--trainer", "nemo"], "--trainer 'nemo' is not known"),
        (["--trainer", "trl", "--format", "csv"], "leave out --format"),
        (["--model", "org/model"], "--model names what is trained"),
    ):
        with pytest.raises(RecipeError, match=why):
            typed(capsys, "export", chats, "--out", tmp_path / "x.jsonl", *options)
