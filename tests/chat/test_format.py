"""Derived chat formats: what makers publish, and what apply_chat_template writes, on every real tokenizer at hand.

MAGPIE_TEST_TOKENIZERS names a folder of tokenizers, of any family; without it, those that lie beside the checkout.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from tokenizers_made import messages_of, real_tokenizer, tokenizer_folders

from magpie.chat import ChatFormat
from magpie.chat.tokenizer import TEMPLATE_DATE
from magpie.errors import ChatFormatError
from magpie.models import resolve
from magpie.recipe import Model

PUBLISHED = {
    "llama3": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
        ["<|begin_of_text|>"],
        ["<|eot_id|>", "<|end_of_text|>", "<|start_header_id|>"],
    ),
    "qwen3": (
        "<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>\n<|im_start|>user\n",
        [],
        ["<|im_end|>", "<|endoftext|>", "<|im_start|>"],
    ),
    "gemma3": (
        "<bos><start_of_turn>user\n",
        "<end_of_turn>\n<start_of_turn>model\n",
        "<end_of_turn>\n<start_of_turn>user\n",
        ["<bos>"],
        ["<end_of_turn>", "<eos>", "<start_of_turn>"],
    ),
    "smollm2": (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>\n<|im_start|>user\n",
        [],
        ["<|im_end|>", "<|endoftext|>", "<|im_start|>"],
    ),
}
"""What each family's makers publish: pre-query, post-query, next turn, beginning of text, stops."""


BODIES = (
    "What is the capital of Peru?",
    "two  spaces and   three",
    "one\ntwo\n\nthree\n\n\nfour\ta tab",
    "1234567890 and 3.14159, 1e-9: ½ of x²",
    "C'est déjà l'été à Zürich, n'est-ce pas ? “Oui” … naïve café",
    "🐦",
    "👩🏽‍🚀 flies 🇵🇪 to 🏳️‍🌈 with e\u0301, no\u00a0break and zero\u200bwidth",
    "مرحبا، كيف أكتب رسالة رسمية؟",
    "mixed: abc שלום, מה שלומך היום? def مرحبا 123",
    "日本語で俳句を書いてください。",
    "请用三句话解释光合作用。 한국어로 인사해 주세요",
    "नमस्ते, आप कैसे हैं?",
    "def f(x):\n    return x ** 2  # square",
    "```python\nfor i in range(3):\n\tprint(i)\n```",
    "SELECT a, COUNT(*) FROM t WHERE b = 'c' GROUP BY a;",
    "<b>bold</b> & <i>italic</i> &amp; &lt; <angle>",
    '{"key": ["value", null, 1.5]}',
    "{{ not a template }} {% if x %} ${HOME} %s {0} #{y}",
    "\\frac{a}{b} \\int_0^1 x\\,dx = $\\alpha$ C:\\Users\\me",
    "https://example.org/a?b=c&d=e#f me@example.org /usr/bin/env",
    "# Heading\n\nText under it.\n\n- one\n  - nested\n* star",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "User: hi\nAssistant: hello\nsystem: do this",
    "...starts with dots and ends with a colon:",
    "word " * 50 + "i'm we'll they've don't ALL CAPS",
)
PADS = (
    ("", ""),
    (" ", ""),
    ("", " "),
    ("\n", "\n"),
    ("  ", "\n\n"),
    ("\n\n", "  "),
    ("\t", "\t"),
    (" \n ", " \r\n"),
)
INSTRUCTIONS = tuple(left + body + right for (left, right), body in product(PADS, BODIES))
SYSTEM = "You teach maths to children.\nBe brief."


@pytest.fixture(scope="module", params=[*tokenizer_folders(), "smollm2"])
def family(request: pytest.FixtureRequest) -> tuple[str, ChatFormat, Any]:
    """A tokenizer's name, its derived format, and transformers' own tokenizer to compare with."""
    from transformers import AutoTokenizer

    where = real_tokenizer(request.param)
    tokenizer = AutoTokenizer.from_pretrained(resolve(Model(model=where), weights=False).path)
    try:
        chat = ChatFormat.from_model(where)
    except ChatFormatError as error:
        assert is_true(str(error), tokenizer), (
            f"{error}; but cutting at a mark gives what the template renders"
        )
        pytest.skip(f"refused: {error}")
    return request.param, chat, tokenizer


def is_true(reason: str, tokenizer: Any) -> bool:
    """Whether a refusal is right: there is no template, or texts cut at a mark are not what it renders."""
    if tokenizer.chat_template is None:
        return "has no chat template" in reason
    try:
        pre, _, post = rendered(tokenizer, ["Xq"]).partition("Xq")
        past = (
            rendered(tokenizer, ["Xq", "Yw", "Zv"])
            .replace("Xq", "{0}")
            .replace("Yw", "{1}")
            .replace("Zv", "{2}")
        )
        naive = [(pre + text + post, rendered(tokenizer, [text])) for text in BODIES]
        talks = [tuple(BODIES[at : at + 3]) for at in range(20)]
        pieces = past.replace("{{", "").count("{")
        naive += [(fill(past, talk), rendered(tokenizer, list(talk))) for talk in talks]
    except Exception:  # a template may fail in any way
        return True
    return not pre.strip() or pieces != 3 or any(ours != theirs for ours, theirs in naive)


def fill(text: str, turns: tuple[str, ...]) -> str:
    for at, turn in enumerate(turns):
        text = text.replace(f"{{{at}}}", turn)
    return text


def rendered(tokenizer: Any, turns: list[str], system: str | None = None, **options: Any) -> str:
    """apply_chat_template's text, on the day that templates are told it is."""
    options = {"add_generation_prompt": True, "strftime_now": TEMPLATE_DATE.strftime, **options}
    return str(tokenizer.apply_chat_template(messages_of(turns, system), tokenize=False, **options))


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def test_the_instructions_are_varied() -> None:
    assert len(set(INSTRUCTIONS)) == 200


def test_the_derived_format_is_the_published_one(family: tuple[str, ChatFormat, Any]) -> None:
    name, chat, tokenizer = family
    if name not in PUBLISHED:
        pytest.skip(f"what the makers of {name} publish is not written down here")
    pre, post, between, bos, stops = PUBLISHED[name]
    assert (chat.pre_query, chat.post_query, chat.next_turn) == (pre, post, between)
    assert chat.source == "tokenizer"
    assert chat.bos_id == (tokenizer.convert_tokens_to_ids(bos[0]) if bos else None)
    assert set(chat.stop_ids) == set(tokenizer.convert_tokens_to_ids(stops))
    assert set(chat.answer_stop_ids) == set(chat.stop_ids)
    assert tokenizer.decode(list(chat.pre_query_ids), skip_special_tokens=False) == pre


def test_prompts_are_what_the_template_renders(family: tuple[str, ChatFormat, Any]) -> None:
    _, chat, tokenizer = family
    lead = chat.texts.reply_lead
    for at, text in enumerate(INSTRUCTIONS):
        assert chat.prompt([text]) == ids_of(tokenizer, rendered(tokenizer, [text]).removesuffix(lead)), text
        turns = [text, INSTRUCTIONS[at - 3], INSTRUCTIONS[at - 30]]
        assert chat.prompt(turns) == ids_of(tokenizer, rendered(tokenizer, turns).removesuffix(lead)), turns


def test_a_prompt_for_the_user_ends_where_the_user_begins(family: tuple[str, ChatFormat, Any]) -> None:
    _, chat, tokenizer = family
    for at, text in enumerate(INSTRUCTIONS[::4]):
        turns = [text, INSTRUCTIONS[at - 3], INSTRUCTIONS[at - 30], INSTRUCTIONS[at - 57]]
        for count in (0, 2, 4):
            whole = rendered(tokenizer, [*turns[:count], "Name one."])
            before = whole[: whole.rindex("Name one.")].removesuffix(chat.texts.user_lead)
            prompt = chat.prompt(turns[:count])
            assert prompt == ids_of(tokenizer, before)
            assert prompt == ids_of(tokenizer, whole)[: len(prompt)]
            assert count == 0 or prompt[-len(chat.next_turn_ids) :] == list(chat.next_turn_ids)


def test_there_is_one_beginning_of_text(family: tuple[str, ChatFormat, Any]) -> None:
    name, chat, tokenizer = family
    bos = tokenizer.bos_token_id
    assert chat.prompt([]).count(bos) <= 1 or bos in chat.next_turn_ids
    for turns in ([], ["a"], ["a", "b"], ["a", "b", "c"]):
        prompt = chat.prompt(turns)
        if chat.bos_id is None:
            assert name not in PUBLISHED or not PUBLISHED[name][3]
        else:
            assert (prompt[0], prompt.count(bos)) == (chat.bos_id, 1)


def test_a_system_prompt_goes_where_the_template_puts_it(family: tuple[str, ChatFormat, Any]) -> None:
    _, chat, tokenizer = family
    if chat.texts.system_problem is not None:
        with pytest.raises(ChatFormatError, match="system prompt"):
            chat.prompt([], system=SYSTEM)
        pytest.skip(chat.texts.system_problem)
    for text in INSTRUCTIONS[::5]:
        for turns in ([text], [text, "Four.", "And 3 + 3?"], ["What is 2 + 2?", "Four.", text]):
            whole = rendered(tokenizer, turns, SYSTEM).removesuffix(chat.texts.reply_lead)
            assert chat.prompt(turns, system=SYSTEM) == ids_of(tokenizer, whole)
    prompt = chat.prompt([], system=SYSTEM)
    assert prompt == ids_of(tokenizer, rendered(tokenizer, ["What is 2 + 2?"], SYSTEM))[: len(prompt)]
    assert prompt != chat.prompt([], system="Another one.")
    assert chat.prompt([]) == list(chat.pre_query_ids)
