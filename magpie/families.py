"""The chat templates of model families: the files of templates/chat, and a tokenizer that speaks one of them.

A tokenizer's own template is the default everywhere; a family stands in for one that is missing, documents it, and
says which settings its models need.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator

from magpie import shipped
from magpie.errors import ChatFormatError, RecipeError
from magpie.loading import read_yaml, validate
from magpie.recipe import Part
from magpie.tokenizer import Message, ModelTokenizer

_SLOTTED = ("pre_query", "pre_query_with_system", "post_query", "next_turn")


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
