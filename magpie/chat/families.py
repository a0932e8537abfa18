"""The chat templates of model families: the files of templates/chat, and a tokenizer that uses one of them.

A tokenizer's own template is always the default. A family's template is for a tokenizer that has none. It also
documents the format, and holds the settings that the family's models need.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from magpie import shipped
from magpie.chat.template import ChatTokenizer, TemplateTexts, read_texts
from magpie.chat.tokenizer import Message
from magpie.errors import ChatFormatError, RecipeError
from magpie.recipe.base import Part
from magpie.recipe.loading import validate
from magpie.recipe.reading import read_yaml

Role = Literal["system", "user", "assistant"]

_COMPARED = ("pre_query", "post_query", "past_post_query", "next_turn")
_TEMPLATED = (*_COMPARED, "pre_query_with_system", "next_turn_with_system")
_LIKENESS = 0.75
"""How alike, from 0 to 1 on average, the texts of a format and a family must be for `compare` to show them."""


class CleanUp(Part):
    """What is removed from a family's instructions: `prefixes` at the beginning, and all from a `cut_at` text on."""

    prefixes: tuple[str, ...] = ()
    cut_at: tuple[str, ...] = ()


class Advice(Part):
    """Settings that a family's models need, and `why`: where they were published. Nothing unpublished is set.

    `temperature`, `top_p` and `top_k` are for instructions, `respond_temperature` and `respond_top_p` for responses;
    the rest are the recipe's settings of the same names.
    """

    why: str = ""
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    stop_at_newline: bool | None = None
    hold_back: tuple[str, ...] = ()
    first_token_divisor: float | None = Field(default=None, gt=0)
    clean: CleanUp = CleanUp()
    respond_temperature: float | None = Field(default=None, ge=0)
    respond_top_p: float | None = Field(default=None, gt=0, le=1)
    thinking: Literal["off", "keep", "strip"] | None = None

    @model_validator(mode="after")
    def _has_a_reason(self) -> Advice:
        if self.settings() and not self.why:
            raise ValueError("needs `why`: who publishes these settings")
        return self

    def settings(self) -> dict[str, Any]:
        """The advice in the form that `load_recipe` takes: the path of a recipe setting -> value."""
        draw = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        draw = {key: value for key, value in draw.items() if value is not None}
        settings: dict[str, Any] = {
            "models.generator.thinking": self.thinking,
            "instruct.mix": [draw] if draw else None,
            "instruct.max_tokens": self.max_tokens,
            "instruct.stop_at_newline": self.stop_at_newline,
            "instruct.hold_back": list(self.hold_back) or None,
            "instruct.first_token_divisor": self.first_token_divisor,
            "clean.prefixes": list(self.clean.prefixes) or None,
            "clean.cut_at": list(self.clean.cut_at) or None,
            "respond.temperature": self.respond_temperature,
            "respond.top_p": self.respond_top_p,
        }
        return {path: value for path, value in settings.items() if value is not None}

    def lines(self) -> tuple[str, ...]:
        """The advice as recipe lines, `path: value`, which `--set path=value` takes too."""
        return tuple(
            f"{path}: {json.dumps(value, ensure_ascii=False)}" for path, value in self.settings().items()
        )


class ChatTemplate(Part):
    """One file of templates/chat: the texts around the turns of a model family.

    `{bos}` and `{eos}` stand for the tokenizer's tokens that begin and end a text (nothing where it has none), and
    `{system}` for a system prompt. `pre_query_with_system` is null for a family without a system role, and
    `next_turn_with_system` is for one that writes the system prompt with the user's last message. `past_post_query`
    replaces `post_query` before past answers; null where they are the same. `stop` are the tokens that end a turn,
    `tokens` those that a tokenizer of the family has: none where all headers are plain text. `strip` are the roles
    whose messages the family's own template strips; `drops_thoughts` says that it removes the thinking block from past
    answers. `models` are patterns of hub names. `source` is where the format is published.
    """

    name: str
    description: str
    source: str
    models: tuple[str, ...] = ()
    pre_query: str = Field(min_length=1)
    pre_query_with_system: str | None = None
    post_query: str = Field(min_length=1)
    past_post_query: str | None = None
    next_turn: str = Field(min_length=1)
    next_turn_with_system: str | None = None
    stop: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    strip: tuple[Role, ...] = ()
    drops_thoughts: bool = False
    advice: Advice = Advice()

    @field_validator("pre_query_with_system", "next_turn_with_system")
    @classmethod
    def _has_one_placeholder(cls, text: str | None) -> str | None:
        if text is not None and text.count("{system}") != 1:
            raise ValueError("must hold `{system}` once")
        return text


@dataclass(frozen=True, slots=True)
class Comparison:
    """A derived format and the family most like it. Each of `differences` is (name, derived text, family's text)."""

    family: ChatTemplate
    differences: tuple[tuple[str, str, str], ...]


def list_templates() -> tuple[ChatTemplate, ...]:
    """The chat templates that ship with magpie, by name."""
    return tuple(load_template(name) for name in shipped.names("templates/chat"))


def load_template(name: str) -> ChatTemplate:
    """The chat template in file `name`, or the shipped one of that name. Raises ChatFormatError."""
    path = shipped.find("templates/chat", name)
    if path is None:
        names = ", ".join(shipped.names("templates/chat"))
        raise ChatFormatError(f"no chat template {name!r}; give a YAML file or one of: {names}")
    try:
        raw = read_yaml(path)
        return validate(ChatTemplate, {"name": path.stem, **raw} if isinstance(raw, dict) else raw, name)
    except RecipeError as error:
        raise ChatFormatError(f"chat template {error}") from error


def for_model(name: str) -> ChatTemplate | None:
    """The shipped template for the model of this hub name or folder, by its name alone; None where there is none.

    The last part of the name is enough, so that a local copy is recognized. Upper and lower case are the same.
    """
    whole = name.lower().rstrip("/")
    last = whole.rpartition("/")[2]
    # The first match counts, in the order of names: patterns of two templates must not overlap.
    for template in list_templates():
        for pattern in map(str.lower, template.models):
            if fnmatchcase(whole, pattern) or fnmatchcase(last, pattern.rpartition("/")[2]):
                return template
    return None


def fitting(tokenizer: ChatTokenizer) -> tuple[str, ...]:
    """The names of the shipped templates whose tokens this tokenizer has, the most specific first.

    That is the one with the most tokens, and of equals the one with the shortest pre-query template. Templates whose
    headers are plain text fit every tokenizer and are left out.
    """
    return tuple(template.name for template in _fitting(tokenizer))


def compare(texts: TemplateTexts, tokenizer: ChatTokenizer) -> Comparison | None:
    """The shipped family that a derived format is, or the one most like it; None where none is much like it."""
    # Families that fit come first, and only a greater likeness replaces one.
    fit = _fitting(tokenizer)
    best, best_likeness = None, _LIKENESS
    for template in [*fit, *(other for other in list_templates() if other not in fit)]:
        family = read_texts(FamilyTokenizer(tokenizer, template))
        pairs = [(name, getattr(texts, name), getattr(family, name)) for name in _COMPARED]
        likeness = sum(_likeness(derived, published) for _, derived, published in pairs) / len(pairs)
        if likeness > best_likeness:
            differences = tuple(pair for pair in pairs if pair[1] != pair[2])
            best, best_likeness = Comparison(template, differences), likeness
    return best


def _fitting(tokenizer: ChatTokenizer) -> list[ChatTemplate]:
    tokens = tokenizer.special_tokens.keys()
    # More tokens in common mean a closer fit. A short pre-query template holds no default system prompt of one model.
    fit = [template for template in list_templates() if template.tokens and tokens >= set(template.tokens)]
    return sorted(fit, key=lambda template: (-len(template.tokens), len(template.pre_query), template.name))


def _likeness(derived: str, published: str) -> float:
    if derived == published:
        return 1.0
    return SequenceMatcher(None, derived, published, autojunk=False).ratio()


class FamilyTokenizer:
    """A model's tokenizer with the chat template of a file of templates/chat.

    `missing` are the marks in the template, `{bos}` and `{eos}`, for which the tokenizer has no token.
    """

    def __init__(self, tokenizer: ChatTokenizer, template: ChatTemplate) -> None:
        self.encode, self.decode = tokenizer.encode, tokenizer.decode
        self.bos_id, self.eos_id = tokenizer.bos_id, tokenizer.eos_id
        self.special_tokens = tokenizer.special_tokens
        self.end_ids: frozenset[int] = frozenset(getattr(tokenizer, "end_ids", ()))
        self.model_size = getattr(tokenizer, "model_size", None)
        # `{bos}` and `{eos}` are replaced once, here. `{system}` stays until a conversation has one.
        names = {at: text for text, at in self.special_tokens.items()}
        bos, eos = (names.get(at, "") if at is not None else "" for at in (self.bos_id, self.eos_id))
        marks = {"{bos}": bos, "{eos}": eos}
        written = "".join(value for name, value in template if name in _TEMPLATED and value is not None)
        self.missing = tuple(mark for mark, text in marks.items() if mark in written and not text)
        # A token of the family's headers, as in SmolLM2's tokenizer, is not put before the text as well.
        if bos in template.post_query + template.next_turn:
            bos = ""
        texts = {
            name: value.replace("{bos}", bos).replace("{eos}", eos)
            for name, value in template
            if name in _TEMPLATED and value is not None
        }
        self._template = template.model_copy(update=texts)
        self._stop = [text.replace("{eos}", eos) for text in template.stop]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about this template on this tokenizer."""
        name = self._template.name
        missing = [text or "{eos}" for text in self._stop if text not in self.special_tokens]
        if not missing:
            return ()
        return (
            f"{', '.join(missing)} of the template {name!r} is not a token of this tokenizer: "
            f"make sure that the model was trained on the {name} format",
        )

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """The conversation, written with the texts of the file."""
        template, turns = self._template, list(messages)
        opening, last_header = template.pre_query, template.next_turn
        if turns and turns[0]["role"] == "system":
            system = self._clean(turns.pop(0), "system")
            opening, last_header = self._headers(system, moves=len(turns) > 2)
        text = opening
        for at, message in enumerate(turns):
            # The texts of the file say what is between turns that alternate, and nothing else.
            role: Role = "assistant" if at % 2 else "user"
            if message["role"] != role:
                raise ChatFormatError(
                    f"the chat template {template.name!r} needs user and assistant to alternate"
                )
            text += self._clean(message, role)
            if at == len(turns) - 1:
                text += template.post_query if add_generation_prompt and role == "user" else ""
            elif role == "user":
                text += template.post_query if template.past_post_query is None else template.past_post_query
            else:
                # The header of the user's last message, after which at most the answer follows.
                text += last_header if at >= len(turns) - 3 else template.next_turn
        return text

    def _headers(self, system: str, *, moves: bool) -> tuple[str, str]:
        """The headers of the user's first message and of the last one, with a system prompt."""
        template = self._template
        if template.pre_query_with_system is None:
            raise ChatFormatError(f"the chat template {template.name!r} has no system role")
        # Such a family writes the system prompt with the last message, once there is more than one.
        if moves and template.next_turn_with_system is not None:
            return template.pre_query, template.next_turn_with_system.replace("{system}", system)
        return template.pre_query_with_system.replace("{system}", system), template.next_turn

    def _clean(self, message: Message, role: Role) -> str:
        content = message["content"]
        # As the models' own templates do it: only what follows the last end of a thinking block stays.
        if role == "assistant" and self._template.drops_thoughts and "</think>" in content:
            content = content.rpartition("</think>")[2].lstrip("\n")
        return content.strip() if role in self._template.strip else content
