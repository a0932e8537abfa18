"""Hostile chat templates on a small tokenizer: what cannot be derived soundly is refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers_made import CHATML, derive, refused

from magpie.errors import ChatFormatError

RAISES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"


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


def test_stripped_messages_are_stripped_in_prompts(tmp_path: Path) -> None:
    chat = derive(tmp_path, CHATML.replace("m['content']", "m['content'] | trim"))
    assert any("strips the messages of user and assistant" in warning for warning in chat.warnings)
    assert chat.prompt(["  Hi \n", " Ho ", "x"]) == chat.prompt(["Hi", "Ho", "x"])


def test_a_template_without_the_tokens_the_tokenizer_adds_is_followed(tmp_path: Path) -> None:
    chat = derive(tmp_path, CHATML, adds_bos=True)
    assert chat.bos_id is None
    assert 0 not in chat.prompt(["Hi"])
    assert any("writes no <bos>" in warning for warning in chat.warnings)
    with_bos = derive(tmp_path / "bos", "{{ bos_token }}" + CHATML, adds_bos=True)
    assert with_bos.prompt(["Hi"]).count(0) == 1
    assert with_bos.bos_id == 0


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


def test_a_description_is_ready_for_json(tmp_path: Path) -> None:
    chat = derive(tmp_path, CHATML)
    described = json.loads(json.dumps(chat.describe()))
    assert described["pre_query_ids"] == list(chat.pre_query_ids)
    assert described["post_query_ids"] == list(chat.post_query_ids)
    assert described["next_turn_ids"] == list(chat.next_turn_ids)
    assert (described["source"], described["thinking"], described["warnings"]) == ("tokenizer", None, [])
    assert (described["system_prompt"], described["options"]) == ("taken", [])


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
