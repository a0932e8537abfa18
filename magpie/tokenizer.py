"""A model's own tokenizer and chat template, as `template.py` and `chat.py` want them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from magpie import shipped
from magpie.errors import ChatFormatError, ModelError

TEMPLATE_DATE = datetime(2024, 7, 26)
"""The day templates are told it is, so that prompts do not change overnight: Llama 3.1's own fallback."""

_CONTROL = re.compile(r"<\|[^|\s]+\|>")
Message = Mapping[str, str]


class ModelTokenizer:
    """The tokenizer and chat template in a model's folder. Loading raises ModelError, rendering ChatFormatError.

    `template_kwargs` are given to the chat template each time, such as `{"enable_thinking": False}`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        trust_remote_code: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._name = name
        self._kwargs = {"strftime_now": TEMPLATE_DATE.strftime, **(template_kwargs or {})}
        self._tokenizer = tokenizer = _load(folder, name, trust_remote_code=trust_remote_code)
        self._template = _template_text(tokenizer, folder)
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()
        self.bos_id: int | None = tokenizer.bos_token_id
        self.eos_id: int | None = tokenizer.eos_token_id
        named = set(tokenizer.all_special_tokens)
        self.special_tokens: dict[str, int] = {
            str(token): index
            for index, token in sorted(tokenizer.added_tokens_decoder.items())
            if token.special or _CONTROL.fullmatch(str(token)) or str(token) in named
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of this template and could change."""
        text = self._template or ""
        notes = []
        if "strftime_now" in text and "date_string" not in self._kwargs:
            notes.append(f"the chat template writes today's date; it is kept at {TEMPLATE_DATE:%Y-%m-%d}")
        if "enable_thinking" in text and "enable_thinking" not in self._kwargs:
            notes.append(
                "the template has a thinking switch; set `chat_template_kwargs: {enable_thinking: false}` "
                "for responses without a thinking block"
            )
        bos = self._tokenizer.bos_token
        if bos and bos not in text and "bos_token" not in text and self.bos_id in self._tokenizer.encode("a"):
            notes.append(
                f"the template writes no {bos}, which the tokenizer puts before plain text; it is followed"
            )
        return tuple(notes)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """The conversation as the model's own template writes it."""
        from jinja2 import TemplateError

        if self._template is None:
            known = ", ".join(shipped.names("templates/chat"))
            raise ChatFormatError(
                f"{self._name} has no chat template, as base models have none; if it was trained on a known format, "
                f"name it in the model's `chat_template:` setting, one of templates/chat ({known}) or a file like them"
            )
        try:
            rendered = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self._kwargs,
            )
        except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ChatFormatError(
                f"the chat template of {self._name} fails ({reason[:200]}); "
                "name one of templates/chat in the model's `chat_template`"
            ) from error
        return str(rendered)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`: special tokens in it are parsed, none are added."""
        if self._backend is not None:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens visible."""
        return str(
            self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )


def _load(folder: Path, name: str, *, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"the tokenizer of {name} cannot be loaded ({reason}); look at {folder}") from error


def _template_text(tokenizer: Any, folder: Path) -> str | None:
    """The chat template's text; models with a processor may keep it in a file the tokenizer does not read."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        return template.get("default")
    beside = folder / "chat_template.json"
    if template is None and beside.is_file():
        try:
            template = json.loads(beside.read_text(encoding="utf-8"))["chat_template"]
        except (ValueError, KeyError, TypeError) as error:
            raise ChatFormatError(
                f"{beside} holds no chat template; fetch it again, or take it away"
            ) from error
    return template if template is None else str(template)
