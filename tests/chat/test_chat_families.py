"""A model whose chat template is a file of templates/chat, or one like them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers_made import refused, small

from magpie.chat import ChatFormat
from magpie.errors import ChatFormatError
from magpie.recipe import Model


def test_a_tokenizer_without_a_template_is_pointed_to_the_shipped_ones(tmp_path: Path) -> None:
    message = refused(tmp_path, None)
    assert "has no chat template" in message
    assert "templates/chat (chatml, command-r, " in message


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_plain_text_headers_keep_their_spaces_with_the_message(tmp_path: Path, kind: str) -> None:
    where = small(tmp_path, None, kind=kind)
    chat = ChatFormat.from_model(Model(model=where, chat_template="vicuna"))
    assert chat.source == "vicuna"
    assert chat.pre_query.endswith(" USER:")
    assert chat.pre_query.startswith("<bos>A chat between")
    assert chat.post_query == " ASSISTANT:"
    assert chat.warnings == ()
    assert chat.bos_id == 0
    whole = chat.pre_query + " Hi there ASSISTANT: Hello.<eos>USER: And you? ASSISTANT:"
    assert chat.prompt(["Hi there", "Hello.", "And you?"]) == chat.tokenizer.encode(whole)
    assert chat.stop_texts == ("ASSISTANT:", "USER:")
    assert set(chat.leaks) >= {"ASSISTANT:", "USER:", "<eos>"}
    assert chat.stop_ids == (1,)


def test_a_family_that_does_not_fit_the_tokenizer_is_warned_of(tmp_path: Path) -> None:
    chat = ChatFormat.from_model(Model(model=small(tmp_path, None), chat_template="llama3"))
    assert any("<|eot_id|> of the template 'llama3' is not a token" in warning for warning in chat.warnings)
    assert any(text.startswith("<|eot_id|>") for text in chat.stop_texts)


def test_a_template_file_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        'description: ours\nsource: here\npre_query: "Q: "\npost_query: "\\nA: "\nnext_turn: "{eos}\\nQ: "\n'
    )
    chat = ChatFormat.from_model(Model(model=small(tmp_path / "model", None), chat_template=str(own)))
    assert (chat.source, chat.pre_query, chat.post_query, chat.next_turn) == (
        "own",
        "Q:",
        "\nA:",
        "<eos>\nQ:",
    )
    with pytest.raises(ChatFormatError, match="no system role"):
        chat.prompt([], system="x")


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("pre_query: x", "`post_query` is missing"),
        ("pre_qery: x", "did you mean `pre_query`"),
        ("- a\n- b", "holds no settings"),
        (": : :", "not valid YAML"),
        ("pre_query_with_system: none of it", "`pre_query_with_system`: must hold"),
    ],
)
def test_a_wrong_template_file_is_one_clear_error(tmp_path: Path, written: str, reason: str) -> None:
    own = tmp_path / "own.yaml"
    rest = (
        ""
        if "pre_query: x" in written
        else "\ndescription: d\nsource: s\npre_query: a\npost_query: b\nnext_turn: c"
    )
    own.write_text(written + (rest if written.startswith("pre_q") else ""))
    with pytest.raises(ChatFormatError) as caught:
        ChatFormat.from_model(Model(model="demo", chat_template=str(own)))
    assert reason in str(caught.value)


def test_an_unknown_family_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ChatFormatError, match=r"no chat template 'lama3'.*chatml, .*llama3, .*vicuna"):
        ChatFormat.from_model(Model(model="demo", chat_template="lama3"))


def test_settings_for_a_template_that_is_not_used_are_spoken_of(tmp_path: Path) -> None:
    where = small(tmp_path, None)
    chat = ChatFormat.from_model(
        Model(model=where, chat_template="chatml", chat_template_kwargs={"mood": "x"})
    )
    assert any(
        "`chat_template_kwargs` have no effect on the template 'chatml'" in one for one in chat.warnings
    )


def test_a_tokenizer_without_a_template_is_told_which_files_fit(tmp_path: Path) -> None:
    tokens = ("<start_of_turn>", "<end_of_turn>")
    message = refused(tmp_path, None, tokens=tokens, bos="<bos>", eos="<eos>")
    assert "by its tokens it may be gemma" in message
