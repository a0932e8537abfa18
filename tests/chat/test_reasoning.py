"""Models that reason before they answer: how their reasoning is told apart, and how they are told not to."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_real_templates import made
from tokenizers_made import CHATML, assert_follows_the_template, derive, messages_of, real_tokenizer

from magpie.chat import ChatFormat
from magpie.chat.reasoning import Reasoning, find_reasoning, find_switches
from magpie.errors import ChatFormatError
from magpie.recipe import Model

OPENS = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
PLAIN = CHATML.partition("{% if add_generation_prompt")[0]
SWITCHED = (
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if SWITCH is defined and not SWITCH %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}{% endif %}"
)
TALK = ("Why?", "Because.", "And then?")


def test_qwen3_without_thinking_closes_it_in_fresh_answers_only() -> None:
    from transformers import AutoTokenizer

    where = real_tokenizer("qwen3")
    tokenizer = AutoTokenizer.from_pretrained(where)
    turns = ["Name a bird.", "<think>\nHm, a bird.\n</think>\n\nThe wren.", "Another."]
    off = ChatFormat.from_model(Model(model=where, thinking="off"))
    given = ChatFormat.from_model(Model(model=where, chat_template_kwargs={"enable_thinking": False}))
    for chat in (off, given):
        for count in (1, 3):
            text = tokenizer.apply_chat_template(
                messages_of(turns[:count]), tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            assert chat.prompt(turns[:count]) == tokenizer.encode(text, add_special_tokens=False)
        assert chat.post_query.endswith("<think>\n\n</think>\n\n")
        assert any("written differently for past turns" in warning for warning in chat.warnings)
    thinking = ChatFormat.from_model(where)
    assert any("thinking switch (`enable_thinking`); set `thinking: off`" in one for one in thinking.warnings)
    assert not any("thinking switch" in warning for warning in off.warnings)
    text = tokenizer.apply_chat_template(messages_of(turns), tokenize=False, add_generation_prompt=True)
    assert thinking.prompt(turns) == tokenizer.encode(text, add_special_tokens=False)
    assert thinking.identity() != off.identity()
    assert thinking.describe()["thinking"] == {
        "begin": "<think>", "end": "</think>", "opened_by_header": False, "dropped_from_history": True,
        "switches": ["enable_thinking"],
    }  # fmt: skip
    assert not {"<think>", "</think>"} & set(thinking.leaks)


@pytest.mark.parametrize("switch", ["enable_thinking", "thinking", "reasoning"])
def test_off_turns_the_templates_own_switch(tmp_path: Path, switch: str) -> None:
    template = PLAIN + SWITCHED.replace("SWITCH", switch)
    chat = derive(tmp_path, template, thinking="off")
    assert chat.post_query.endswith("assistant\n<think>\n\n</think>\n\n")
    assert chat.split_reasoning(" Four. ") == (None, "Four.")
    assert_follows_the_template(chat, TALK)
    open_ = derive(tmp_path, template)
    assert open_.post_query.endswith("assistant\n<think>\n")
    assert any("opens a thinking block" in warning for warning in open_.warnings)


def test_an_explicit_setting_goes_before_off(tmp_path: Path) -> None:
    template = PLAIN + SWITCHED.replace("SWITCH", "enable_thinking")
    with pytest.raises(ChatFormatError, match=r"`thinking: off` is impossible.*`thinking: strip`"):
        derive(tmp_path, template, thinking="off", chat_template_kwargs={"enable_thinking": True})


def test_off_is_refused_where_the_header_leaves_no_way_out(tmp_path: Path) -> None:
    with pytest.raises(ChatFormatError, match=r"opens a thinking block in the assistant's header and has no"):
        derive(tmp_path, PLAIN + OPENS, thinking="off")
    for thinking in ("keep", "strip"):
        chat = derive(tmp_path, PLAIN + OPENS, thinking=thinking)
        assert chat.post_query.endswith("<think>\n")
        assert_follows_the_template(chat, TALK)


def test_off_is_nothing_to_a_model_that_does_not_reason(tmp_path: Path) -> None:
    assert derive(tmp_path, CHATML, thinking="off") == derive(tmp_path, CHATML)
    assert derive(tmp_path, CHATML, thinking="off").warnings == ()


def test_off_says_when_nothing_tells_the_model(tmp_path: Path) -> None:
    chat = derive(
        tmp_path, CHATML, tokens=("<|im_start|>", "<|im_end|>", "<think>", "</think>"), thinking="off"
    )
    assert any("nothing in the chat template tells the model not to reason" in one for one in chat.warnings)
    assert chat.split_reasoning("<think>Hm.</think>Yes.") == ("Hm.", "Yes.")


def test_off_takes_a_header_that_is_past_the_reasoning(tmp_path: Path) -> None:
    chat = made(tmp_path, "gpt-oss", thinking="off")
    assert chat.post_query == "<|end|><|start|>assistant<|channel|>final<|message|>"
    assert chat.tokenizer.decode(chat.prompt(TALK)).endswith(
        "<|end|><|start|>assistant<|channel|>final<|message|>"
    )
    assert chat.split_reasoning("Four.") == (None, "Four.")
    ends = {chat.tokenizer.special_tokens[text] for text in ("<|end|>", "<|return|>", "<|call|>")}
    assert ends <= set(chat.answer_stop_ids)
    glm = made(tmp_path / "glm", "glm 4.5", thinking="off")
    assert glm.post_query == "/nothink<|assistant|>\n<think></think>"
    cohere = made(tmp_path / "cohere", "command r7b", thinking="off")
    assert cohere.post_query.endswith("<|CHATBOT|><|START_RESPONSE|>")


def test_harmony_reasons_in_a_channel_of_its_own(tmp_path: Path) -> None:
    chat = made(tmp_path, "gpt-oss")
    ids = chat.tokenizer.special_tokens
    assert {ids["<|end|>"], ids["<|start|>"], ids["<|return|>"], ids["<|channel|>"]} <= set(chat.stop_ids)
    assert {ids["<|return|>"], ids["<|call|>"]} <= set(chat.answer_stop_ids)
    assert not {ids[text] for text in ("<|end|>", "<|start|>", "<|channel|>", "<|message|>")} & set(
        chat.answer_stop_ids
    )
    assert not any("<|channel|>" in leak or "<|end|>" in leak for leak in chat.leaks)
    analysis, final = "<|channel|>analysis<|message|>", "<|channel|>final<|message|>"
    turn = "<|end|><|start|>assistant"
    assert chat.split_reasoning(f"{analysis}Two and two.{turn}{final}Four.") == ("Two and two.", "Four.")
    assert chat.split_reasoning(f"{analysis}One.{turn}{analysis}Two.{turn}{final}Four.") == (
        "One.\nTwo.",
        "Four.",
    )
    commentary = "<|channel|>commentary<|message|>Looking.<|end|><|start|>assistant"
    assert chat.split_reasoning(f"{commentary}{final}Four.") == ("Looking.", "Four.")
    assert chat.split_reasoning(f"{final}Four.") == (None, "Four.")
    assert chat.split_reasoning(f"{analysis}Two and") == ("Two and", "")
    assert chat.split_reasoning("Four.") == (None, "Four.")
    assert any(
        "changes past answers that hold a thinking block in its own way" in one for one in chat.warnings
    )


@pytest.mark.parametrize(
    ("begin", "end"),
    [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>")],
)
def test_reasoning_is_told_from_the_answer(tmp_path: Path, begin: str, end: str) -> None:
    chat = derive(tmp_path, CHATML, tokens=("<|im_start|>", "<|im_end|>", begin, end))
    assert chat.reasoning == Reasoning(begin, end)
    assert chat.split_reasoning(f"\n{begin}\nHm.\n{end}\n\nYes. ") == ("Hm.", "Yes.")
    assert chat.split_reasoning(f"{begin}Hm, and so on") == ("Hm, and so on", "")
    assert chat.split_reasoning(f"{begin}{end}Yes.") == ("", "Yes.")
    assert chat.split_reasoning(f"Hm.{end}Yes.") == ("Hm.", "Yes.")
    assert chat.split_reasoning(" Yes. ") == (None, "Yes.")
    mentions = f"Write {begin} before it and {end} after it."
    assert chat.split_reasoning(mentions) == (None, mentions)
    assert chat.split_reasoning(f"{begin}Hm.{end}{mentions}") == ("Hm.", mentions)
    assert not {begin, end} & set(chat.leaks)
    assert not set(chat.encode(begin + end)) & {*chat.stop_ids, *chat.answer_stop_ids}


def test_a_header_that_opens_the_block_starts_inside_it(tmp_path: Path) -> None:
    chat = derive(tmp_path, PLAIN + OPENS)
    assert chat.split_reasoning("Hm.\n</think>\n\nYes.") == ("Hm.", "Yes.")
    assert chat.split_reasoning("Hm, and so on") == ("Hm, and so on", "")
    assert chat.split_reasoning("<think>Hm.</think>Yes.") == ("Hm.", "Yes.")


def test_an_answer_loses_the_header_of_its_own(tmp_path: Path) -> None:
    chat = made(tmp_path, "command r7b")
    answer = "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes."
    assert chat.split_reasoning(answer) == ("Hm.", "Yes.")
    assert chat.split_reasoning("<|START_RESPONSE|>Yes.") == (None, "Yes.")


@pytest.mark.parametrize("name", ["deepseek r1", "deepseek v3.1", "glm 4.5"])
def test_past_answers_lose_their_reasoning_as_the_template_has_it(tmp_path: Path, name: str) -> None:
    chat = made(tmp_path, name)
    assert any("lose their thinking block" in warning for warning in chat.warnings)
    for thought in ("<think>\nHm.\n</think>\n\n", "<think>Hm.</think>", "<think></think> \n"):
        for answer in ("Yes.", " Yes,\n\nit is. \n"):
            assert_follows_the_template(chat, ("Why?", thought + answer, "And?", thought + answer, "Oh."))


def test_a_template_that_writes_thoughts_in_a_way_of_its_own_is_warned_of(tmp_path: Path) -> None:
    loud = CHATML.replace("m['content']", "m['content'].replace('<think>', '<THINK>')")
    chat = derive(tmp_path, loud)
    assert any("in its own way" in warning for warning in chat.warnings)
    assert_follows_the_template(chat, TALK)


@pytest.mark.parametrize(
    ("template", "tokens", "found"),
    [
        ("{{ '<think>' }}</think>", (), Reasoning("<think>", "</think>")),
        ("<seed:think></seed:think>", (), Reasoning("<seed:think>", "</seed:think>")),
        ("<thought></thought>", (), Reasoning("<thought>", "</thought>")),
        ("", ("<think>", "</think>"), Reasoning("<think>", "</think>")),
        ("[THINK] [/THINK]", ("<think>", "</think>"), Reasoning("[THINK]", "[/THINK]")),
        ("<b>no thinking here</b>", ("<|im_end|>",), None),
    ],
)
def test_how_reasoning_is_written_is_found(
    template: str, tokens: tuple[str, ...], found: Reasoning | None
) -> None:
    assert find_reasoning(template, tokens) == found


def test_switches_are_variables_that_the_template_reads() -> None:
    assert find_switches("", ["thinking", "tools"]) == {"thinking": False}
    assert find_switches("", ["thinking_budget"]) == {"thinking_budget": 0}
    assert find_switches("", ["reasoning_effort"]) == {}
    assert find_switches("{% if reasoning_effort == 'none' %}", ["reasoning_effort"]) == {
        "reasoning_effort": "none"
    }
    assert find_switches("", []) == {}
