"""What steps are bound with: looked up once, and by what the model is, not by its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recording import CHAT, PLAIN, SCRIPTED, TRANSCRIPT
from tokenizers_made import CHATML, small

from magpie.chat import ChatFormat
from magpie.errors import ModelError, RecipeError
from magpie.plan import BuildTools
from magpie.recipe import Model
from magpie.steps.base import ModelUse


def test_each_format_is_looked_up_once_for_each_model_and_its_settings(tmp_path: Path) -> None:
    tools = BuildTools()
    model = Model(model=small(tmp_path, CHATML))
    for look_up in (tools.chat, tools.transcript, tools.plain_text):
        assert look_up(model) is look_up(model.model_copy())
    assert tools.files(model) is tools.files(model.model_copy(update={"slots": 3}))
    assert tools.chat(model) is not tools.chat(model.model_copy(update={"thinking": "keep"}))
    assert tools.chat(model) == ChatFormat.from_model(model)


def test_an_engine_with_a_tokenizer_of_its_own_speaks_that_whatever_the_model_is_called() -> None:
    tools = BuildTools()
    for model in (SCRIPTED, Model(model="never-looked-for", engine="scripted")):
        assert tools.chat(model).identity() == CHAT.identity()
        assert tools.transcript(model).identity() == TRANSCRIPT.identity()
        assert tools.plain_text(model).identity() == PLAIN.identity()
    with pytest.raises(ModelError):
        tools.chat(Model(model="/never/looked/for", engine="transformers"))


def test_a_format_has_a_digest_and_a_model_that_is_not_spoken_to_none() -> None:
    tools = BuildTools()
    digests = {
        speech: tools.format_digest(ModelUse("generator", SCRIPTED, "write", speech))
        for speech in ("chat", "transcript", "plain")
    }
    assert digests == {
        "chat": CHAT.identity(), "transcript": TRANSCRIPT.identity(), "plain": PLAIN.identity(),
    }  # fmt: skip
    assert len(set(digests.values())) == 3
    assert tools.format_digest(ModelUse("embedder", SCRIPTED, "embed")) is None


def test_a_dataset_is_read_once_and_what_is_none_every_time(tmp_path: Path) -> None:
    path = tmp_path / "known.jsonl"
    tools = BuildTools()
    with pytest.raises(RecipeError, match=r"known\.jsonl"):
        tools.instructions(str(path))
    path.write_text(json.dumps({"text": "sing a song"}) + "\n")
    first = tools.instructions(str(path))
    path.write_text(json.dumps({"text": "fly"}) + "\n")
    assert tools.instructions(str(path)) is first
    assert first.texts == ("sing a song",) and first.places == (f"{path}:1",)
    assert BuildTools().instructions(str(path)).digest != first.digest
