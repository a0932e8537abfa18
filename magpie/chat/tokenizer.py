"""A model's own tokenizer and chat template, as `template.py` and `chat.py` want them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from magpie import shipped
from magpie.chat.jinja import Variables, read_variables
from magpie.chat.reasoning import find_switches
from magpie.errors import ChatFormatError, ModelError

TEMPLATE_DATE = datetime(2024, 7, 26)
"""The day templates are told it is, so that prompts do not change overnight: Llama 3.1's own fallback."""

_CONTROL = re.compile(r"<[|｜][^|｜\s]+[|｜]>")
_DEFAULT = "default"
_EXTRA = frozenset({"tools", "documents"})
Message = Mapping[str, str]


class ModelTokenizer:
    """The tokenizer and chat template in a model's folder. Loading raises ModelError, rendering ChatFormatError.

    `template_kwargs` are given to the chat template each time, such as `{"enable_thinking": False}`. `template_name`
    chooses among several templates of one tokenizer. With `thinking` false, the template's thinking switches are off.
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
        self._given = dict(template_kwargs or {})
        self._tokenizer = tokenizer = _load(folder, name, trust_remote_code=trust_remote_code)
        self._template, self._others = _choose_template(_templates(tokenizer, folder), template_name, name)
        self._variables = self._read_variables()
        switches = find_switches(self._template or "", self._variables.read)
        self.switches: dict[str, Any] = {key: off for key, off in switches.items() if key not in self._given}
        self._off = {} if thinking else self.switches
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
    def begins_with_bos(self) -> bool:
        """Whether the tokenizer puts its beginning-of-text token before plain text."""
        return self.bos_id is not None and self.bos_id in self._tokenizer.encode("a")

    @property
    def template(self) -> str | None:
        """The chat template itself; None where there is none."""
        return self._template

    @property
    def options(self) -> tuple[str, ...]:
        """The names of what the chat template reads besides the messages: what `chat_template_kwargs` can set."""
        return tuple(sorted(self._variables.read | (_EXTRA & self._given.keys())))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of this template and could change."""
        notes = []
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
        missing = sorted(self._variables.needed - self._given.keys())
        if missing:
            notes.append(
                f"the chat template reads {', '.join(missing)}, which nothing gives it; "
                f"set `chat_template_kwargs: {{{missing[0]}: ...}}`"
            )
        unread = sorted(self._given.keys() - self._variables.read - _EXTRA)
        if unread and self._template is not None:
            known = ", ".join(self.options) or "nothing that can be set"
            notes.append(f"the chat template does not read {', '.join(unread)}; it reads {known}")
        bos, text = self._tokenizer.bos_token, self._template or ""
        if bos and bos not in text and "bos_token" not in text and self.begins_with_bos:
            notes.append(
                f"the template writes no {bos}, which the tokenizer puts before plain text; it is followed"
            )
        return tuple(notes)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """The conversation as the model's own template writes it."""
        return self._render(messages, TEMPLATE_DATE, add_generation_prompt=add_generation_prompt)

    def without_template(self, fitting: Sequence[str] = ()) -> ChatFormatError:
        """The error of a tokenizer without a template. `fitting` are files of templates/chat that its tokens fit."""
        known = ", ".join(shipped.names("templates/chat"))
        near = f"; by its tokens it may be {' or '.join(fitting[:3])}" if fitting else ""
        setting = "name it in the model's `chat_template:` setting"
        return ChatFormatError(
            f"{self._name} has no chat template, as base models have none; if it was trained on a known format, "
            f"{setting}, one of templates/chat ({known}) or a file like them{near}"
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
        from jinja2 import TemplateError

        if self._template is None:
            raise self.without_template()
        try:
            rendered = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **{"strftime_now": today.strftime, **self._off, **self._given},
            )
        except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ChatFormatError(
                f"the chat template of {self._name} fails ({reason[:200]}); {self._way_on()}"
            ) from error
        return str(rendered)

    def _way_on(self) -> str:
        missing = sorted(self._variables.needed - self._given.keys())
        if not missing:
            return "name one of templates/chat in the model's `chat_template`"
        return (
            f"it reads {', '.join(missing)}, which nothing gives it: give them in the model's `chat_template_kwargs`, "
            "or name one of templates/chat in `chat_template`"
        )

    def _read_variables(self) -> Variables:
        if self._template is None:
            return Variables()
        return read_variables(self._template, given=frozenset(self._tokenizer.special_tokens_map))

    def _writes_the_date(self) -> bool:
        if "strftime_now" not in (self._template or ""):
            return False
        asked = [{"role": "user", "content": "?"}]
        try:
            written = {
                self._render(asked, TEMPLATE_DATE + timedelta(days=days), add_generation_prompt=True)
                for days in (0, 400)
            }
        except ChatFormatError:
            return False
        return len(written) > 1


def _load(folder: Path, name: str, *, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        # Beside vLLM, Mistral's own tokenizer would be taken where its file lies there too: it has no chat template.
        return AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True, mistral_format=False
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"the tokenizer of {name} cannot be loaded ({reason}); look at {folder}") from error


def _templates(tokenizer: Any, folder: Path) -> dict[str, str]:
    """The chat templates by name; models with a processor may keep one in a file the tokenizer does not read."""
    template = tokenizer.chat_template
    beside = folder / "chat_template.json"
    if template is None and beside.is_file():
        try:
            template = json.loads(beside.read_text(encoding="utf-8"))["chat_template"]
        except (ValueError, KeyError, TypeError) as error:
            raise ChatFormatError(
                f"{beside} holds no chat template; fetch it again, or take it away"
            ) from error
    if template is None:
        return {}
    if isinstance(template, Mapping):
        return {str(name): str(text) for name, text in template.items()}
    return {_DEFAULT: str(template)}


def _choose_template(
    templates: Mapping[str, str], wanted: str | None, model: str
) -> tuple[str | None, tuple[str, ...]]:
    """The template of the wanted name, or else the default one, and the names of the others."""
    chosen = wanted or _DEFAULT
    own = ", ".join(sorted(templates))
    if wanted is not None and wanted not in templates:
        known = ", ".join(shipped.names("templates/chat"))
        has = f"the tokenizer of {model} has {own or 'none'}"
        raise ChatFormatError(f"no chat template {wanted!r}; give a YAML file or one of: {known}; {has}")
    if templates and chosen not in templates:
        raise ChatFormatError(
            f"the tokenizer of {model} has several chat templates ({own}) and none of them is the default; "
            "name one in the model's `chat_template`"
        )
    return templates.get(chosen), tuple(sorted(templates.keys() - {chosen}))
