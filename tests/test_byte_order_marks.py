"""A byte-order mark at the start of a file that a person wrote reaches no model and no row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from builds import small_recipe
from tokenizers_made import CHATML, small

from magpie.build import build
from magpie.chat import ChatFormat
from magpie.engines.scripted import ScriptedEngine
from magpie.errors import ModelError
from magpie.plan import BuildTools
from magpie.recipe.filters import load_filter
from magpie.recipe.loading import load_recipe, parse_recipe

MARK = "\ufeff"
MARKS = {"UTF-8": "utf-8-sig", "UTF-16": "utf-16"}
ROW = {"instruction": "How does a wren build its nest?"}


@pytest.fixture(params=MARKS, ids=str)
def marked(request: pytest.FixtureRequest) -> str:
    """The encoding that writes a mark."""
    return MARKS[request.param]


def test_steering_texts_in_the_prompts_of_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users.txt").write_text(f"{MARK}You write as a pupil.\nYou write as a nurse.\n", "utf-8")
    prompts: list[str] = []
    complete = ScriptedEngine.complete

    async def watched(engine: ScriptedEngine, prompt: Sequence[int], sampling: Any) -> Any:
        prompts.append(bytes(token for token in prompt if token < 256).decode("utf-8", "replace"))
        return await complete(engine, prompt, sampling)

    monkeypatch.setattr(ScriptedEngine, "complete", watched)
    recipe = small_recipe().model_dump(mode="json") | {"steer": {"prompts": {"file": "users.txt"}}}
    build(parse_recipe(recipe, folder=tmp_path), tmp_path / "run", stop_after="instruct")
    assert any("pupil" in prompt for prompt in prompts)
    assert not any(MARK in prompt for prompt in prompts)


def test_recipes_and_filters(tmp_path: Path, marked: str) -> None:
    (tmp_path / "r.yaml").write_text("name: small\nrows: 8\nmodels: {generator: demo}\n", marked)
    (tmp_path / "f.yaml").write_text(
        "name: mine\nrules: [{name: long, where: 'response_length > 9'}]\n", marked
    )
    assert load_recipe(tmp_path / "r.yaml").name == "small"
    assert load_filter(str(tmp_path / "f.yaml")).name == "mine"


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "txt"])
def test_datasets(tmp_path: Path, marked: str, form: str) -> None:
    text = {
        "jsonl": json.dumps(ROW) + "\n",
        "json": json.dumps([ROW]),
        "csv": "instruction\n" + ROW["instruction"] + "\n",
        "txt": ROW["instruction"] + "\n",
    }[form]
    exam = tmp_path / f"exam.{form}"
    exam.write_text(text, marked)
    assert BuildTools().instructions(str(exam)).texts == (ROW["instruction"],)


def test_chat_templates(tmp_path: Path) -> None:
    plain = ChatFormat.from_model(small(tmp_path / "plain", CHATML))
    template = Path(small(tmp_path / "marked", CHATML)) / "chat_template.jinja"
    template.write_text(MARK + template.read_text("utf-8"), "utf-8")
    assert ChatFormat.from_model(str(template.parent)).pre_query_ids == plain.pre_query_ids


def test_a_tokenizer_s_own_files_are_refused_in_one_line(tmp_path: Path) -> None:
    # The tokenizer's library does not read them.
    path = Path(small(tmp_path / "marked", CHATML)) / "tokenizer_config.json"
    path.write_text(MARK + path.read_text("utf-8"), "utf-8")
    with pytest.raises(ModelError, match=r"cannot be loaded \(Unexpected UTF-8 BOM.*; check "):
        ChatFormat.from_model(str(path.parent))
