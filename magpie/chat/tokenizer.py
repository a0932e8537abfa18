"""A model's own tokenizer and chat template: a `ChatTokenizer` on a folder of model files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from magpie import shipped
from magpie.chat.jinja import Variables, read_variables, render
from magpie.chat.reasoning import find_switches
from magpie.errors import ChatFormatError
from magpie.models.tokenizer import open_tokenizer
from magpie.text import printable

TEMPLATE_DATE = datetime(2024, 7, 26)
"""The date that templates get as today's, so that prompts do not change overnight: Llama 3.1's own fallback."""

_CONTROL = re.compile(r"<[|｜][^|｜\s]+[|｜]>")
_DEFAULT = "default"
_EXTRA = frozenset({"tools", "documents"})
Message = Mapping[str, str]


class ModelTokenizer:
    """The tokenizer and chat template in a model's folder. Loading raises ModelError, rendering ChatFormatError.

    `template_kwargs` are passed to the chat template, such as `{"enable_thinking": False}`. `template_name` chooses
    among several templates of one tokenizer. With `thinking` false, the template's thinking switches are off.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        trust_remote_code: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
        template_name: str | None = None,
        thinking: bool = True,
    ) -> None:
        self._name = name
        self._template_kwargs = dict(template_kwargs or {})
        opened = open_tokenizer(folder, name, trust_remote_code=trust_remote_code)
        self._tokenizer = tokenizer = opened.tokenizer
        self.reading_notes = opened.notes
        self._renders_itself = _has_own_rendering(tokenizer)
        self._template, self._others = _choose_template(_templates(tokenizer, folder), template_name, name)
        self._variables = self._read_variables()
        switches = find_switches(self._template or "", self._variables.read)
        self.switches: dict[str, Any] = {
            key: off for key, off in switches.items() if key not in self._template_kwargs
        }
        self._off = {} if thinking else self.switches
        # The Rust tokenizer itself is faster than its wrapper. The wrapper sets truncation and padding for each call;
        # here the settings of the tokenizer's file would hold, so both are switched off.
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()
        self.bos_id: int | None = tokenizer.bos_token_id
        self.eos_id: int | None = tokenizer.eos_token_id
        self.model_size = _model_size(folder)
        # Some tokenizers do not mark their control tokens as special. They are known by their form, <|...|>.
        named = set(tokenizer.all_special_tokens)
        self.special_tokens: dict[str, int] = {
            str(token): index
            for index, token in sorted(tokenizer.added_tokens_decoder.items())
            if token.special or _CONTROL.fullmatch(str(token)) or str(token) in named
        }
        # Only control tokens: a config without ids of its own may have those of another tokenizer.
        self.end_ids = _configured_ends(folder) & set(self.special_tokens.values())

    @property
    def begins_with_bos(self) -> bool:
        """Whether the tokenizer puts its beginning-of-text token before plain text."""
        return self.bos_id is not None and self.bos_id in self._tokenizer.encode("a")

    @property
    def template(self) -> str | None:
        """The chat template's Jinja source; None where there is none."""
        return self._template

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the variables that the chat template reads, which `chat_template_kwargs` can set."""
        return tuple(sorted(self._variables.read | (_EXTRA & self._template_kwargs.keys())))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about this template, and can change."""
        notes = list(self.reading_notes)
        if self._others:
            others = ", ".join(self._others)
            notes.append(f"the tokenizer has other chat templates ({others}); `chat_template` can name one")
        if self._writes_the_date():
            notes.append(f"the chat template writes today's date; it is kept at {TEMPLATE_DATE:%Y-%m-%d}")
        if self.switches and not self._off:
            names = " and ".join(f"`{name}`" for name in self.switches)
            notes.append(
                f"the template has a thinking switch ({names}); set `thinking: off` for responses without reasoning"
            )
        missing = sorted(self._variables.needed - self._template_kwargs.keys())
        if missing:
            notes.append(
                f"the chat template needs a value for {', '.join(missing)}; "
                f"set `chat_template_kwargs: {{{missing[0]}: ...}}`"
            )
        unread = sorted(self._template_kwargs.keys() - self._variables.read - _EXTRA)
        if unread and self._template is not None:
            options = ", ".join(self.options) or "nothing that can be set"
            notes.append(f"the chat template does not read {', '.join(unread)}; it reads {options}")
        bos, text = self._tokenizer.bos_token, self._template or ""
        if bos and bos not in text and "bos_token" not in text and self.begins_with_bos:
            notes.append(
                f"the template writes no {bos}, which the tokenizer puts before plain text; prompts follow the template"
            )
        return tuple(notes)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """The conversation as the model's own template writes it."""
        return self._render(messages, TEMPLATE_DATE, add_generation_prompt=add_generation_prompt)

    def without_template(self, fitting: Sequence[str] = ()) -> ChatFormatError:
        """The error of a tokenizer without a template. `fitting` are files of templates/chat that its tokens fit."""
        names = ", ".join(shipped.names("templates/chat"))
        guess = f"; by its tokens it may be {' or '.join(fitting[:3])}" if fitting else ""
        setting = "name it in the model's `chat_template:` setting"
        return ChatFormatError(
            f"{self._name} has no chat template, as base models have none; if it was trained on a known format, "
            f"{setting}, one of templates/chat ({names}) or a file like them{guess}"
        )

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

    def _render(self, messages: Sequence[Message], today: datetime, *, add_generation_prompt: bool) -> str:
        if self._template is None:
            raise self.without_template()
        try:
            if self._renders_itself:
                return self._rendered_by_own_code(messages, today, add_generation_prompt)
            variables = {
                "tools": None,
                "documents": None,
                **self._tokenizer.special_tokens_map,
                **self._off,
                **self._template_kwargs,
                "messages": [dict(message) for message in messages],
                "add_generation_prompt": add_generation_prompt,
            }
            return render(self._template, variables, today)
        except ChatFormatError as error:
            # One line, and nothing that acts on a terminal: an exception from inside a template may say anything.
            reason = printable(str(error))
            raise ChatFormatError(
                f"the chat template of {self._name} fails ({reason[:200]}); {self._advice()}"
            ) from error

    def _rendered_by_own_code(
        self, messages: Sequence[Message], today: datetime, add_generation_prompt: bool
    ) -> str:
        """The conversation as code that came with the tokenizer writes it: it is trusted, or was not loaded."""
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **{"strftime_now": today.strftime, **self._off, **self._template_kwargs},
            )
        except Exception as error:  # foreign code raises of every kind
            raise ChatFormatError(str(error) or type(error).__name__) from error
        return str(text)

    def _advice(self) -> str:
        missing = sorted(self._variables.needed - self._template_kwargs.keys())
        if not missing:
            return "name one of templates/chat in the model's `chat_template`"
        return (
            f"it needs a value for {', '.join(missing)}: set it in the model's `chat_template_kwargs`, "
            "or name one of templates/chat in `chat_template`"
        )

    def _read_variables(self) -> Variables:
        if self._template is None:
            return Variables()
        try:
            return read_variables(self._template, given=frozenset(self._tokenizer.special_tokens_map))
        except ChatFormatError as error:
            raise ChatFormatError(
                f"the chat template of {self._name} cannot be read ({printable(str(error))}); "
                "name one of templates/chat in the model's `chat_template`"
            ) from error

    def _writes_the_date(self) -> bool:
        if "strftime_now" not in (self._template or ""):
            return False
        # A template may mention the date and not write it: two days decide.
        question = [{"role": "user", "content": "?"}]
        try:
            rendered = {
                self._render(question, TEMPLATE_DATE + timedelta(days=days), add_generation_prompt=True)
                for days in (0, 400)
            }
        except ChatFormatError:
            return False
        return len(rendered) > 1


def _configured_ends(folder: Path) -> set[int]:
    """The ids that end a text by the model's generation settings; none where it has none."""
    ids = _setting(folder / "generation_config.json", "eos_token_id")
    return {number for number in (ids if isinstance(ids, list) else [ids]) if isinstance(number, int)}


def _model_size(folder: Path) -> int | None:
    """How many tokens the model has, by its config; None where that does not say."""
    size = _setting(folder / "config.json", "vocab_size")
    if size is None:
        inside = _setting(folder / "config.json", "text_config")
        size = inside.get("vocab_size") if isinstance(inside, dict) else None
    return size if isinstance(size, int) else None


def _setting(path: Path, key: str) -> Any:
    try:
        settings = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None  # what is wrong with the file is said by whoever loads the model
    return settings.get(key) if isinstance(settings, dict) else None


def _has_own_rendering(tokenizer: Any) -> bool:
    from transformers import PreTrainedTokenizerBase

    own = type(tokenizer).apply_chat_template
    return own is not PreTrainedTokenizerBase.apply_chat_template


def _templates(tokenizer: Any, folder: Path) -> dict[str, str]:
    """The chat templates by name."""
    template = tokenizer.chat_template
    # Multimodal models may keep their template in a file of the processor, which the tokenizer does not read.
    processor_file = folder / "chat_template.json"
    if template is None and processor_file.is_file():
        try:
            template = json.loads(processor_file.read_text(encoding="utf-8-sig"))["chat_template"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ChatFormatError(
                f"{processor_file} holds no chat template; fetch it again, or remove it"
            ) from error
    if template is None:
        return {}
    if isinstance(template, Mapping):
        return {str(name): _without_mark(str(text)) for name, text in template.items()}
    return {_DEFAULT: _without_mark(str(template))}


def _without_mark(text: str) -> str:
    """Without the byte-order mark that some editors put at the beginning of a file."""
    return text.removeprefix("\ufeff")


def _choose_template(
    templates: Mapping[str, str], wanted: str | None, model: str
) -> tuple[str | None, tuple[str, ...]]:
    """The template of the wanted name, or else the default one, and the names of the others."""
    chosen = wanted or _DEFAULT
    own = ", ".join(sorted(templates))
    if wanted is not None and wanted not in templates:
        names = ", ".join(shipped.names("templates/chat"))
        has = f"the tokenizer of {model} has {own or 'none'}"
        raise ChatFormatError(f"no chat template {wanted!r}; give a YAML file or one of: {names}; {has}")
    if templates and chosen not in templates:
        raise ChatFormatError(
            f"the tokenizer of {model} has several chat templates ({own}) and none of them is the default; "
            "name one in the model's `chat_template`"
        )
    return templates.get(chosen), tuple(sorted(templates.keys() - {chosen}))
