"""Chat templates with the habits of well-known families, written for these tests, on small tokenizers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers_made import assert_follows_the_template, derive

from magpie.chat import ChatFormat
from magpie.errors import ChatFormatError

TALK = (
    "Name three birds,\nplease.", "Heron, wren & magpie 🐦.", "  Which one sings? ", "The wren.\n", "\n\nmerci, שלום!",
)  # fmt: skip
ALTERNATE = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
)
SPLIT_SYSTEM = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A template, the special tokens it counts on, and what is to be found: texts, and why no system prompt."""

    template: str
    pre: str
    post: str
    between: str
    tokens: tuple[str, ...] = ()
    kind: str = "bytes"
    bos: str = "<s>"
    eos: str = "</s>"
    past: str | None = None
    system: str | None = None


FAMILIES = {
    "llama 2": Family(
        SPLIT_SYSTEM + "{% for m in rest %}" + ALTERNATE
        + "{% if loop.first and system %}{% set text = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m.content %}"
        "{% else %}{% set text = m.content %}{% endif %}{% if m.role == 'user' %}"
        "{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}{% else %}{{ ' ' + text.strip() + ' ' + eos_token }}"
        "{% endif %}{% endfor %}",
        pre="<s>[INST]", post=" [/INST]", between=" </s><s>[INST]", kind="sentencepiece",
    ),
    "llama 2, default system prompt": Family(
        "{% for m in messages %}" + ALTERNATE
        + "{% if loop.first %}{% set text = '<<SYS>>\nBe kind.\n<</SYS>>\n\n' + m.content %}{% else %}"
        "{% set text = m.content %}"
        "{% endif %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        pre="<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\n", post=" [/INST]", between=" </s><s>[INST] ",
        kind="sentencepiece", system="takes no system prompt",
    ),
    "mistral v0.1": Family(
        "{{ bos_token }}{% for m in messages %}" + ALTERNATE
        + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}"
        "{{ m.content + eos_token + ' ' }}"
        "{% endif %}{% endfor %}",
        pre="<s>[INST]", post=" [/INST]", between="</s> [INST]", kind="sentencepiece", system="Roles must alternate",
    ),
    "mistral v0.3": Family(
        SPLIT_SYSTEM + "{{ bos_token }}{% for m in rest %}" + ALTERNATE
        + "{% if m.role == 'user' %}{% if loop.last and system %}"
        "{{ '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}"
        "{% else %}{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}{% else %}{{ ' ' + m.content + eos_token }}"
        "{% endif %}{% endfor %}",
        pre="<s>[INST]", post="[/INST]", between="</s>[INST]", tokens=("[INST]", "[/INST]"), kind="sentencepiece",
    ),
    "phi 3": Family(
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        pre="<|user|>\n", post="<|end|>\n<|assistant|>\n", between="<|end|>\n<|user|>\n",
        tokens=("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"), kind="sentencepiece",
    ),
    "zephyr": Family(
        "{% for m in messages %}\n{% if m.role == 'user' %}\n{{ '<|user|>\n' + m.content + eos_token }}\n"
        "{% elif m.role == 'system' %}\n{{ '<|system|>\n' + m.content + eos_token }}\n"
        "{% elif m.role == 'assistant' %}\n"
        "{{ '<|assistant|>\n'  + m.content + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n"
        "{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
        pre="<|user|>\n", post="</s>\n<|assistant|>\n", between="</s>\n<|user|>\n", kind="sentencepiece",
    ),
    "command r": Family(
        "{{ bos_token }}" + SPLIT_SYSTEM + "{% if system %}{{ '<|START|><|SYSTEM|>' + system + '<|END|>' }}"
        "{% endif %}"
        "{% for m in rest %}" + ALTERNATE + "{{ '<|START|>' + ('<|USER|>' if m.role == 'user' else '<|CHATBOT|>') "
        "+ m.content.strip() + '<|END|>' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|START|><|CHATBOT|>' }}{% endif %}",
        pre="<s><|START|><|USER|>", post="<|END|><|START|><|CHATBOT|>", between="<|END|><|START|><|USER|>",
        tokens=("<|START|>", "<|END|>", "<|USER|>", "<|CHATBOT|>", "<|SYSTEM|>"),
    ),
    "command r7b": Family(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<|START|><|CHATBOT|><|START_RESPONSE|>"
        "{{ m.content }}<|END_RESPONSE|><|END|>{% else %}<|START|>"
        "{{ '<|USER|>' if m.role == 'user' else '<|SYSTEM|>' }}"
        "{{ m.content }}<|END|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|START|><|CHATBOT|>"
        "{% if not reasoning %}{{ '' }}{% endif %}{% endif %}{# <|START_THINKING|> #}",
        pre="<s><|START|><|USER|>", post="<|END|><|START|><|CHATBOT|>",
        past="<|END|><|START|><|CHATBOT|><|START_RESPONSE|>", between="<|END_RESPONSE|><|END|><|START|><|USER|>",
        tokens=("<|START|>", "<|END|>", "<|USER|>", "<|CHATBOT|>",
                "<|SYSTEM|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ),
    "granite 3": Family(
        SPLIT_SYSTEM + "{% set today = strftime_now('%B %d, %Y') %}{% if not system %}"
        "{% set system = 'Knowledge Cutoff Date: "
        "April 2024.\nToday\\'s Date: ' + today + '.\nYou are Granite.' %}{% endif %}"
        "{{ '<|role|>system<|/role|>' + system "
        "+ '<|end_of_text|>\n' }}{% for m in rest %}"
        "{{ '<|role|>' + m.role + '<|/role|>' + m.content + '<|end_of_text|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|role|>assistant' }}{% if controls %}"
        "{{ ' ' + controls | tojson }}"
        "{% endif %}{{ '<|/role|>' }}{% endif %}",
        pre="<|role|>system<|/role|>Knowledge Cutoff Date: April 2024.\nToday's Date: July 26, 2024.\nYou are "
        "Granite."
        "<|end_of_text|>\n<|role|>user<|/role|>",
        post="<|end_of_text|>\n<|role|>assistant<|/role|>", between="<|end_of_text|>\n<|role|>user<|/role|>",
        tokens=("<|role|>", "<|/role|>", "<|end_of_text|>"), bos="<|end_of_text|>", eos="<|end_of_text|>",
    ),
    "deepseek r1": Family(
        SPLIT_SYSTEM + "{{ bos_token }}{{ system }}{% for m in rest %}{% if m.role == 'user' %}"
        "{{ '<｜User｜>' + m.content }}"
        "{% else %}{% set text = m.content %}{% if '</think>' in text %}"
        "{% set text = text.split('</think>')[-1] %}{% endif %}"
        "{{ '<｜Assistant｜>' + text + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}",
        pre="<s><｜User｜>", post="<｜Assistant｜><think>\n", past="<｜Assistant｜>", between="</s><｜User｜>",
        tokens=("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
    ),
    "deepseek v3.1": Family(
        SPLIT_SYSTEM + "{{ bos_token }}{{ system }}{% for m in rest %}{% if m.role == 'user' %}"
        "{{ '<｜User｜>' + m.content }}"
        "{% else %}{% set text = m.content %}{% if '</think>' in text %}"
        "{% set text = text.split('</think>', 1)[1] %}{% endif %}"
        "{{ '<｜Assistant｜></think>' + text + eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<｜Assistant｜>' }}{% if thinking %}{{ '<think>' }}{% else %}{{ '</think>' }}{% endif %}{% endif %}",
        pre="<s><｜User｜>", post="<｜Assistant｜></think>", between="</s><｜User｜>",
        tokens=("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
    ),
    "gpt-oss": Family(
        SPLIT_SYSTEM + "{{ '<|start|>system<|message|>Current date: ' + strftime_now('%Y-%m-%d') + '\n\nReasoning: '"
        "+ (reasoning_effort if reasoning_effort is defined else 'medium') + '<|end|>' }}"
        "{% if system %}{{ '<|start|>developer<|message|># Instructions\n\n' + system + '<|end|>' }}{% endif %}"
        "{% for m in rest %}{% if m.role == 'user' %}{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}"
        "{% else %}"
        "{% if '<|channel|>analysis<|message|>' in m.content %}{{ raise_exception('No channels in content') }}"
        "{% endif %}"
        "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
        "{% if loop.last and not add_generation_prompt %}{{ '<|return|>' }}{% else %}{{ '<|end|>' }}{% endif %}"
        "{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
        pre="<|start|>system<|message|>Current date: 2024-07-26\n\nReasoning: medium<|end|><|start|>user<|message|>",
        post="<|end|><|start|>assistant", past="<|end|><|start|>assistant<|channel|>final<|message|>",
        between="<|end|><|start|>user<|message|>", bos="<|startoftext|>", eos="<|return|>",
        tokens=("<|start|>", "<|message|>", "<|end|>", "<|channel|>", "<|call|>", "<|endoftext|>"),
    ),
    "olmo 2": Family(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{{ '<|assistant|>\n' + m.content + eos_token }}"
        "{% if not loop.last %}{{ '\n' }}{% endif %}{% else %}{{ '<|' + m.role + '|>\n' + m.content + '\n' }}"
        "{% endif %}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}",
        pre="<|endoftext|><|user|>\n", post="\n<|assistant|>\n", between="<|endoftext|>\n<|user|>\n",
        bos="<|endoftext|>", eos="<|endoftext|>",
    ),
    "gemma 2": Family(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}"
        "{% for m in messages %}" + ALTERNATE + "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else "
        "m.role) + '\n' "
        "+ m.content | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<start_of_turn>model\n' }}{% endif %}",
        pre="<bos><start_of_turn>user\n", post="<end_of_turn>\n<start_of_turn>model\n",
        between="<end_of_turn>\n<start_of_turn>user\n", bos="<bos>", eos="<eos>",
        tokens=("<start_of_turn>", "<end_of_turn>"), system="System role not supported",
    ),
    "glm 4.5": Family(
        "[gMASK]<sop>{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>\n' + m.content }}"
        "{{ '/nothink' if enable_thinking is defined and not enable_thinking and not "
        "m.content.endswith('/nothink') }}"
        "{% elif m.role == 'assistant' %}{{ '<|assistant|>\n<think></think>\n' "
        "+ (m.content.split('</think>')[-1] if '</think>' in m.content else m.content).strip() }}"
        "{% else %}{{ '<|system|>\n' + m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|assistant|>' }}"
        "{{ '\n<think></think>' if enable_thinking is defined and not enable_thinking }}{% endif %}",
        pre="[gMASK]<sop><|user|>\n", post="<|assistant|>",
        past="<|assistant|>\n<think></think>\n", between="<|user|>\n",
        tokens=("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>", "<think>", "</think>"),
    ),
    "magistral": Family(
        SPLIT_SYSTEM + "{{ bos_token }}{% if not system %}"
        "{% set system = 'Think first: [THINK]thoughts[/THINK]answer' %}{% endif %}"
        "{{ '[SYSTEM_PROMPT]' + system + '[/SYSTEM_PROMPT]' }}{% for m in rest %}{% if m.role == 'user' %}"
        "{{ '[INST]' + m.content + '[/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
        pre="<s>[SYSTEM_PROMPT]Think first: [THINK]thoughts[/THINK]answer[/SYSTEM_PROMPT][INST]", post="[/INST]",
        between="</s>[INST]",
        tokens=("[INST]", "[/INST]", "[THINK]", "[/THINK]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    ),
}  # fmt: skip


def made(folder: Path, name: str, **model: object) -> ChatFormat:
    family = FAMILIES[name]
    return derive(
        folder,
        family.template,
        kind=family.kind,
        tokens=family.tokens,
        bos=family.bos,
        eos=family.eos,
        **model,
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_the_texts_are_found_and_prompts_follow_the_template(tmp_path: Path, name: str) -> None:
    family = FAMILIES[name]
    chat = made(tmp_path, name)
    assert (chat.pre_query, chat.post_query, chat.next_turn) == (family.pre, family.post, family.between)
    assert chat.texts.past_post_query == (family.past or family.post)
    assert_follows_the_template(chat, TALK)
    if family.system is None:
        assert_follows_the_template(chat, TALK, "Be brief,\nand {{ kind }}.")
    else:
        with pytest.raises(ChatFormatError, match=family.system):
            chat.prompt([], system="Be brief.")


@pytest.mark.parametrize("name", FAMILIES)
def test_something_ends_a_turn_and_nothing_ordinary_does(tmp_path: Path, name: str) -> None:
    chat = made(tmp_path, name)
    assert chat.stop_ids
    assert chat.answer_stop_ids
    ordinary = set(chat.encode(" ".join(TALK)))
    assert not ordinary & {*chat.stop_ids, *chat.answer_stop_ids}
    assert not any(text in turn for turn in TALK for text in (*chat.stop_texts, *chat.leaks))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_beginning_of_text_is_there_once(tmp_path: Path, name: str) -> None:
    chat, bos = made(tmp_path, name), FAMILIES[name].bos
    written = chat.tokenizer.decode(chat.prompt([]))
    assert written.count(bos) == (1 if bos in FAMILIES[name].pre else 0) or bos == FAMILIES[name].eos
    if chat.bos_id is not None:
        assert chat.prompt(TALK[:3]).count(chat.bos_id) == 1
    else:
        assert bos not in written or bos in chat.next_turn


def test_a_system_prompt_may_move_on_with_the_conversation(tmp_path: Path) -> None:
    chat = made(tmp_path, "mistral v0.3")
    assert any("is written with the user's last message" in warning for warning in chat.warnings)
    written = chat.tokenizer.decode(chat.prompt(["Hi", "Ho"], system="Be brief."))
    assert " ".join(written.split()).endswith("</s>[INST] Be brief.")
    assert written.count("Be brief.") == 1
