"""Tokenizers whose files and settings disagree: read rightly, and given to engines so, or refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers_made import CHATML, derive, rendered_text, small

from magpie.chat import ChatFormat
from magpie.engines.server import _tokenizer as _of_the_server
from magpie.engines.vllm.settings import _tokenizer
from magpie.errors import ChatFormatError, ModelError
from magpie.models import ModelFiles
from magpie.models.tokenizer import open_tokenizer
from magpie.recipe import Model

SENTENCE = "How do bees  fly?\n  It's 12345 metres, naïve 你好"
BYTES = [bytes([code]) for code in range(256)]
SPECIAL = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGPIE_CACHE", str(tmp_path / "cache"))


def change(path: Path, **settings: Any) -> None:
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | settings))


def of_another_class(folder: Path) -> Path:
    """A byte-level tokenizer whose settings name Llama's class, as in distillations of DeepSeek's models."""
    where = Path(small(folder, CHATML))
    change(where / "tokenizer_config.json", tokenizer_class="LlamaTokenizerFast")
    change(where / "config.json", model_type="llama")
    return where


def test_a_class_that_does_not_fit_the_file_is_passed_over_with_a_note(tmp_path: Path) -> None:
    where = of_another_class(tmp_path / "model")
    chat = ChatFormat.from_model(str(where))
    assert chat.tokenizer.decode(chat.tokenizer.encode(SENTENCE)) == SENTENCE
    assert chat.prompt(["How do bees fly?"]) == derive(tmp_path / "sound", CHATML).prompt(
        ["How do bees fly?"]
    )
    assert any("does not fit its tokenizer.json, which is read as it stands" in one for one in chat.warnings)


def test_the_engine_is_given_the_same_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    where = of_another_class(tmp_path / "model")
    arguments = _tokenizer(ModelFiles("m", where, "r"), Model(model=str(where)))
    tokenizer = AutoTokenizer.from_pretrained(arguments["tokenizer"])
    ids = tokenizer.encode(f"<|im_start|>{SENTENCE}", add_special_tokens=False)
    assert ids == ChatFormat.from_model(str(where)).tokenizer.encode(f"<|im_start|>{SENTENCE}")
    assert tokenizer.decode(ids, skip_special_tokens=False) == f"<|im_start|>{SENTENCE}"
    assert (tokenizer.eos_token, tokenizer.chat_template) == ("<eos>", CHATML)
    assert _tokenizer(ModelFiles("m", where, "r"), Model(model=str(where))) == arguments


def test_a_server_s_prompts_are_written_as_text_with_the_same_tokenizer(tmp_path: Path) -> None:
    where = of_another_class(tmp_path / "model")
    chat = ChatFormat.from_model(str(where))
    decode, _ = _of_the_server(ModelFiles("m", where, "r"), Model(model=str(where)))
    assert decode(chat.encode(SENTENCE)) == SENTENCE
    assert decode(chat.prompt([SENTENCE])) == rendered_text(chat, [SENTENCE])


def test_a_sound_tokenizer_is_given_to_the_engine_as_it_is(tmp_path: Path) -> None:
    where = Path(small(tmp_path / "model", CHATML))
    assert _tokenizer(ModelFiles("m", where, "r"), Model(model=str(where))) == {}
    assert open_tokenizer(where, "m").notes == ()
    (where / "tekken.json").write_text("{}")
    assert _tokenizer(ModelFiles("m", where, "r"), Model(model=str(where))) == {"tokenizer_mode": "hf"}


def in_mistrals_format(folder: Path, *special: str) -> Path:
    folder.mkdir()
    words = [*BYTES, b"Na", b"me"]
    vocabulary = [
        {"rank": at, "token_bytes": base64.b64encode(word).decode(), "token_str": None}
        for at, word in enumerate(words)
    ]
    tokens = [{"rank": at, "token_str": text, "is_control": True} for at, text in enumerate(special)]
    config = {
        "pattern": r"\p{L}+|\p{N}|[^\p{L}\p{N}\s]+|\s+",
        "num_vocab_tokens": len(words),
        "default_vocab_size": len(words) + len(special),
        "default_num_special_tokens": len(special),
        "version": "v3",
    }
    (folder / "tekken.json").write_text(
        json.dumps({"config": config, "vocab": vocabulary, "special_tokens": tokens})
    )
    change(folder / "config.json", model_type="mistral", vocab_size=len(words) + len(special))
    return folder


def test_mistrals_own_format_begins_a_text_once_and_ends_every_turn(tmp_path: Path) -> None:
    where = in_mistrals_format(tmp_path / "model", *SPECIAL)
    chat = ChatFormat.from_model(Model(model=str(where), chat_template="mistral-tekken"))
    assert (chat.bos_id, chat.pre_query_ids, chat.post_query_ids) == (1, (1, 3), (4,))
    assert chat.next_turn_ids == (2, 3)
    assert 2 in chat.stop_ids
    prompt = chat.prompt(["Name a bird.", "The wren.", "And another."])
    assert (prompt.count(1), prompt.count(2), prompt[-1]) == (1, 1, 4)
    assert chat.tokenizer.decode(prompt) == (
        "<s>[INST]Name a bird.[/INST]The wren.</s>[INST]And another.[/INST]"
    )
    assert any("read from tekken.json" in warning for warning in chat.warnings)
    arguments = _tokenizer(ModelFiles("m", where, "r"), Model(model=str(where)))
    assert arguments["tokenizer_mode"] == "hf"
    assert (Path(arguments["tokenizer"]) / "tokenizer.json").is_file()


def test_a_template_whose_marks_the_tokenizer_has_not_is_refused(tmp_path: Path) -> None:
    where = in_mistrals_format(tmp_path / "model", "<unk>", "<begin>", "<end>", "[INST]", "[/INST]")
    with pytest.raises(
        ChatFormatError, match="writes tokens that begin and end a text, and the tokenizer of"
    ):
        ChatFormat.from_model(Model(model=str(where), chat_template="mistral-tekken"))


def test_a_damaged_tokenizer_is_one_line(tmp_path: Path) -> None:
    where = Path(small(tmp_path / "model", CHATML))
    (where / "tokenizer.json").write_text("{ cut")
    with pytest.raises(ModelError, match=r"the tokenizer of .* cannot be loaded") as caught:
        ChatFormat.from_model(str(where))
    assert "\n" not in str(caught.value)


def test_the_ends_of_the_generation_settings_end_a_turn_too(tmp_path: Path) -> None:
    where = Path(small(tmp_path / "model", CHATML, tokens=("<|im_start|>", "<|im_end|>", "<|eom|>")))
    before = ChatFormat.from_model(str(where))
    end, letter = (before.tokenizer.encode(text)[0] for text in ("<|eom|>", "x"))
    change(where / "generation_config.json", eos_token_id=[end, letter])
    after = ChatFormat.from_model(str(where))
    assert set(after.stop_ids) == {*before.stop_ids, end}  # a letter ends nothing
    assert set(after.answer_stop_ids) == {*before.answer_stop_ids, end}


def test_tokens_that_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    where = Path(small(tmp_path / "model", CHATML))
    change(where / "config.json", vocab_size=3)
    with pytest.raises(ChatFormatError, match="and the model has only 3 tokens; use the tokenizer"):
        ChatFormat.from_model(str(where))


def with_parts(folder: Path, **parts: Any) -> str:
    """The small tokenizer with other parts in its file."""
    where = Path(small(folder, CHATML))
    change(where / "tokenizer.json", **parts)
    return str(where)


def test_a_tokenizer_that_eats_spaces_is_refused(tmp_path: Path) -> None:
    eats = {"type": "Replace", "pattern": {"String": " "}, "content": ""}
    with pytest.raises(ChatFormatError, match="loses the spaces between words"):
        ChatFormat.from_model(with_parts(tmp_path / "one", normalizer=eats))


def test_a_tokenizer_that_joins_lines_is_warned_of(tmp_path: Path) -> None:
    joins = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    chat = ChatFormat.from_model(with_parts(tmp_path / "one", normalizer=joins))
    assert any("does not keep line breaks" in warning for warning in chat.warnings)


def test_a_tokenizer_that_writes_all_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ChatFormatError, match=r"changes its text|loses"):
        ChatFormat.from_model(with_parts(tmp_path / "one", normalizer={"type": "Lowercase"}))
