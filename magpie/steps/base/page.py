"""Pages that a model goes on with: as bare text, or as the beginning of an answer in its chat format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from magpie.chat import ChatFormat, PlainText
    from magpie.recipe import Model, Speech
    from magpie.steps.base.step import Tools


@dataclass(frozen=True, slots=True)
class Page:
    """How one model is given a page. Just one of the two is there."""

    plain_text: PlainText | None
    chat: ChatFormat | None

    @classmethod
    def of(cls, speech: Speech, model: Model, tools: Tools) -> Page:
        """The model's way, as the recipe says. Raises ChatFormatError and ModelError."""
        return cls(tools.plain_text(model), None) if speech == "plain" else cls(None, tools.chat(model))

    def ids(self, request: str, begun: str, *, plain: str | None = None) -> list[int]:
        """The prompt: `begun`, which in a chat format answers `request`; `plain` where bare text is another."""
        if self.chat is not None:
            return [*self.chat.prompt([request]), *self.chat.encode(begun)]
        assert self.plain_text is not None
        return self.plain_text.ids(begun if plain is None else plain)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end the text."""
        if self.chat is not None:
            return self.chat.answer_stop_ids
        return () if self.plain_text is None else self.plain_text.stop_ids

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """The texts that do."""
        return () if self.chat is None else self.chat.stop_texts

    @property
    def leaks(self) -> tuple[str, ...]:
        """What no person types: role headers and special tokens."""
        if self.chat is not None:
            return self.chat.leaks
        return () if self.plain_text is None else tuple(self.plain_text.tokenizer.special_tokens)

    def without_end(self, text: str) -> str:
        """The text without what ends it, where an engine left that there."""
        if self.chat is not None:
            return self.chat.without_end(text)
        return text if self.plain_text is None else self.plain_text.without_end(text)
