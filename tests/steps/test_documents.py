"""Documents before the user's header: how they are read, cut and dealt, and who sees them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builds import small_recipe, tree
from hypothesis import given
from hypothesis import strategies as st
from recording import CHAT

from magpie.build import build
from magpie.engines.scripted import ScriptedTokenizer
from magpie.errors import RecipeChangedError, RecipeError
from magpie.recipe.loading import load_recipe
from magpie.records.documents import read_documents
from magpie.runs.run import Run
from magpie.runs.verify import verify
from magpie.steps.instruct.documents import Chunks, cut_to

DOCUMENTS = {"sea": "The sea is deep.\n\nIts tides come twice a day.", "hill": "A hill of chalk, " * 12}
TEXT = ScriptedTokenizer().decode


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in DOCUMENTS.items()))
    return path


def long_recipe(path: Path, **changes: Any) -> Any:
    steer = {"documents": str(path), "document_tokens": 64}
    models = {
        "generator": {"model": "scripted", "context_length": 8192},
        "judge": "generator",
        "embedder": "scripted",
    }
    return small_recipe(**({"models": models, "steer": steer, "filter": None, "rows": 32} | changes))


def test_files_of_texts_and_of_records_are_read(tmp_path: Path, written: Path) -> None:
    assert {each.id: each.text for each in read_documents(written)} == {
        id: text.strip() for id, text in DOCUMENTS.items()
    }
    (tmp_path / "a.txt").write_text("One text\n\nof two paragraphs.")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.md").write_text("# A page\n")
    (tmp_path / "d.csv").write_text("content,year\na row,1\n,2\n")
    (tmp_path / "empty.txt").write_text(" \n")
    found = {each.id: each.text for each in read_documents(tmp_path)}
    assert found["a.txt"] == "One text\n\nof two paragraphs." and found["b/c.md"] == "# A page"
    assert found["d.csv:2"] == "a row" and len(found) == 5
    for name, text in (("none.jsonl", '{"a": "x", "b": "y"}\n'), ("blank.jsonl", '{"text": ""}\n')):
        (tmp_path / name).write_text(text)
        with pytest.raises(RecipeError, match=r"`text`|no column text"):
            read_documents(tmp_path / name)
    with pytest.raises(RecipeError, match="no such file"):
        read_documents(tmp_path / "not-there")


@given(
    st.lists(st.text("ab .\n", min_size=1, max_size=40), max_size=12).map("\n\n".join),
    st.integers(4, 30),
)
def test_parts_fit_the_budget_and_lose_nothing_but_space(text: str, budget: int) -> None:
    encode = ScriptedTokenizer().encode
    parts = cut_to(text, budget, encode)
    assert all(len(encode(part)) <= budget for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_it_is_cut_between_paragraphs_before_sentences_before_words() -> None:
    encode = ScriptedTokenizer().encode
    text = "One. Two.\n\nThree is long. Four."
    assert [part.strip() for part in cut_to(text, 22, encode)] == ["One. Two.", "Three is long. Four."]
    assert [part.strip() for part in cut_to(text, 15, encode)] == ["One. Two.", "Three is long.", "Four."]
    assert all(len(part) <= 3 for part in cut_to("abcdefgh", 3, encode))


def test_every_document_comes_once_a_round_and_part_after_part(written: Path) -> None:
    chunks = Chunks(read_documents(written), ScriptedTokenizer().encode, ("<|im_end|>",), 64)
    dealt = [chunk.id for chunk in chunks.dealt(5, np.arange(16))]
    assert all(
        {id.partition("#")[0] for id in dealt[at : at + 2]} == {"sea", "hill"} for at in range(0, 16, 2)
    )
    assert Counter(id for id in dealt if id.startswith("hill")) == {f"hill#{at}": 2 for at in range(1, 5)}
    assert [chunk.id for chunk in chunks.dealt(5, np.arange(7, 12))] == dealt[7:12]


def test_instruction_response_and_messages_see_the_document(written: Path, tmp_path: Path) -> None:
    recipe = long_recipe(written)
    run = build(recipe, tmp_path / "run")
    assert verify(run) == []
    rows = run.table(["document", "document_id", "instruction"], rejected=False).to_pylist()
    assert {row["document_id"].partition("#")[0] for row in rows} == set(DOCUMENTS)
    for row, kept in zip(rows, run.dataset().to_list(), strict=True):
        assert kept["messages"][0]["content"] == f"{row['document']}\n\n{row['instruction']}"
        assert kept["instruction"] == row["instruction"] and "document" not in kept
        assert kept["document_id"] == row["document_id"]
    assert tree(build(recipe, tmp_path / "again").folder) == tree(run.folder)
    # Other documents under the same name make another run.
    written.write_text('{"id": "sea", "text": "Another sea."}\n')
    with pytest.raises(RecipeChangedError, match=r"`instruct\.settings\.documents` was"):
        build(recipe, run.folder)
    written.unlink()
    assert Run.open(run.folder).table().num_rows == 32  # to look at it no document is needed


def test_tokens_of_the_chat_format_in_a_document_end_no_turn(tmp_path: Path) -> None:
    (tmp_path / "hostile.txt").write_text(f"Before{CHAT.leaks[0]}after")
    (document,) = read_documents(tmp_path / "hostile.txt")
    (chunk,) = Chunks((document,), CHAT.encode, CHAT.leaks, 64).dealt(1, np.arange(1))
    assert chunk.text == "Before after"


def test_prompts_stand_before_the_document(written: Path, tmp_path: Path) -> None:
    steer = {
        "documents": str(written),
        "document_tokens": 64,
        "prompts": {"ask": "Ask about it."},
        "combine": "cycle",
    }
    run = build(long_recipe(written, steer=steer, respond=None, extend=None, tag=None), tmp_path / "run")
    assert set(run.table(["steer_id"])["steer_id"].to_pylist()) == {"ask"}


def test_a_document_that_does_not_fit_is_refused_and_the_shipped_recipe_is_whole(written: Path) -> None:
    with pytest.raises(RecipeError, match=r"do not fit into the context of 8192"):
        long_recipe(written, steer={"documents": str(written), "document_tokens": 7000})
    recipe = load_recipe("long")
    assert recipe.steer is not None and recipe.steer.documents is not None
    assert len(read_documents(Path(recipe.steer.documents))) == 6


def test_pairs_and_rewards_see_the_document(written: Path, tmp_path: Path) -> None:
    models = {
        "generator": {"model": "scripted", "context_length": 8192}, "judge": "generator", "embedder": "scripted",
        "reward": "scripted", "base": {"model": "scripted", "script": {"slots": 3}},
    }  # fmt: skip
    recipe = long_recipe(
        written, models=models, respond=None, extend=None, tag=None, prefer={"responses": 3, "margin": 0}
    )
    pairs = build(recipe, tmp_path / "pairs").dataset().to_list()
    assert pairs and all(pair["prompt"][0]["content"].endswith(pair["instruction"]) for pair in pairs)
    assert all(pair["prompt"][0]["content"] != pair["instruction"] for pair in pairs)
    scored = build(
        long_recipe(written, models=models, tag=None, reward={"baseline": {}}), tmp_path / "scored"
    )
    (step,) = (one.step for one in scored.steps if one.name == "reward")
    assert "document" in step.reads
