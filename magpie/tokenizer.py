"""The tokenizers and chat templates that `chat.py` derives a format from.

`ModelTokenizer` wraps a model's own tokenizer and template. `FamilyTokenizer` gives a tokenizer without a template
the one in a file of templates/chat.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from magpie import shipped
from magpie.errors import ChatFormatError, ModelError, RecipeError
from magpie.loading import read_yaml, validate
from magpie.recipe import Part

TEMPLATE_DATE = datetime(2024, 7, 26)
"""The day templates are told it is, so that prompts do not change overnight: Llama 3.1's own fallback."""

_CONTROL = re.compile(r"<\|[^|\s]+\|>")
_SLOTTED = ("pre_query", "pre_query_with_system", "post_query", "next_turn")
Message = Mapping[str, str]


class ChatTemplate(Part):
    """One file of templates/chat: the texts around the turns of a model family.

    `{bos}` and `{eos}` stand for the tokenizer's tokens that begin and end a text (nothing where it has none), and
    `{system}` for a system prompt. `stop` are the tokens that end a turn. `pre_query_with_system` is null for a family
    without a system role. `strip` says that the family's own template strips the messages. `source` is where the
    format is published.
    """

    name: str
    description: str
    source: str
    pre_query: str = Field(min_length=1)
    pre_query_with_system: str | None = None
    post_query: str = Field(min_length=1)
    next_turn: str = Field(min_length=1)
    stop: tuple[str, ...] = ()
    strip: bool = False

    @model_validator(mode="after")
    def _has_a_slot(self) -> ChatTemplate:
        if self.pre_query_with_system is not None and self.pre_query_with_system.count("{system}") != 1:
            raise ValueError("`pre_query_with_system` must hold `{system}` once")
        return self


def list_templates() -> tuple[ChatTemplate, ...]:
    """The chat templates that ship with magpie, by name."""
    return tuple(load_template(name) for name in shipped.names("templates/chat"))


def load_template(name: str) -> ChatTemplate:
    """The chat template in file `name`, or the shipped one of that name. Raises ChatFormatError."""
    path = shipped.find("templates/chat", name)
    if path is None:
        known = ", ".join(shipped.names("templates/chat"))
        raise ChatFormatError(f"no chat template {name!r}; give a YAML file or one of: {known}")
    try:
        raw = read_yaml(path)
        return validate(ChatTemplate, {"name": path.stem, **raw} if isinstance(raw, dict) else raw, name)
    except RecipeError as error:
        raise ChatFormatError(f"chat template {error}") from error


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


class FamilyTokenizer:
    """A model's tokenizer with the chat template of a file of templates/chat."""

    def __init__(self, tokenizer: ModelTokenizer, template: ChatTemplate) -> None:
        self.encode, self.decode = tokenizer.encode, tokenizer.decode
        self.bos_id, self.eos_id = tokenizer.bos_id, tokenizer.eos_id
        self.special_tokens = tokenizer.special_tokens
        names = {at: text for text, at in self.special_tokens.items()}
        bos, eos = (names.get(at, "") if at is not None else "" for at in (self.bos_id, self.eos_id))
        if bos in template.post_query + template.next_turn:
            bos = ""  # the family's header, not a beginning of text, as in SmolLM2's tokenizer
        slots = {
            name: value.replace("{bos}", bos).replace("{eos}", eos)
            for name, value in template
            if name in _SLOTTED and value is not None
        }
        self._template = template.model_copy(update=slots)
        self._stop = [text.replace("{eos}", eos) for text in template.stop]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of this template on this tokenizer."""
        name = self._template.name
        missing = [text or "{eos}" for text in self._stop if text not in self.special_tokens]
        if not missing:
            return ()
        return (
            f"{', '.join(missing)} of the template {name!r} is no token of this tokenizer: "
            f"make sure that the model was trained on the {name} format",
        )

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """The conversation as the file's texts write it."""
        template, turns = self._template, list(messages)
        opening = template.pre_query
        if turns and turns[0]["role"] == "system":
            if template.pre_query_with_system is None:
                raise ChatFormatError(f"the chat template {template.name!r} has no system role")
            opening = template.pre_query_with_system
        before, slot, after = opening.partition("{system}")
        text = before + (self._clean(turns.pop(0)["content"]) if slot else "") + after
        for at, message in enumerate(turns):
            if message["role"] != ("user", "assistant")[at % 2]:
                raise ChatFormatError(
                    f"the chat template {template.name!r} wants user and assistant to alternate"
                )
            follows = at + 1 < len(turns) or (add_generation_prompt and at % 2 == 0)
            text += self._clean(message["content"])
            text += (template.post_query, template.next_turn)[at % 2] if follows else ""
        return text

    def _clean(self, content: str) -> str:
        return content.strip() if self._template.strip else content


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
