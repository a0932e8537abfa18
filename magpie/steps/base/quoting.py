"""A prompt that ends in a text which a model wrote: all tokens before it are the same for every row, so that an engine
with a prefix cache computes them once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from magpie.chat import ChatFormat

PLACE = "\x00text\x00"  # with characters that no template contains
_FENCE = "```"
_CUT = "\n[the rest is left out]"


@dataclass(frozen=True, slots=True)
class Quote:
    """A text that a model wrote, as token ids, and those of the fences around it."""

    opening: list[int]
    body: list[int]
    closing: list[int]


@dataclass(frozen=True, slots=True)
class QuotingPrompt:
    """A user's message as token ids: everything before and after the text in it is encoded once, for all rows."""

    chat: ChatFormat
    before: tuple[int, ...]
    after: tuple[int, ...]
    special: Mapping[int, str]
    fences: Mapping[str, tuple[list[int], list[int]]]
    """What stands before and after a text, for the fence that nearly all texts have."""

    @classmethod
    def of(cls, template: str, name: str, chat: ChatFormat, **others: Any) -> Self:
        """The prompt of a template of ours: the text stands where it writes the variable `name`; `others` are given."""
        from jinja2 import StrictUndefined
        from jinja2.sandbox import SandboxedEnvironment

        environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, trim_blocks=True)
        return cls.around(environment.from_string(template).render({name: PLACE, **others}), chat)

    @classmethod
    def around(cls, rendered: str, chat: ChatFormat) -> Self:
        """The prompt of a text that holds PLACE where the quoted text belongs."""
        before, _, after = rendered.partition(PLACE)
        # A prompt whose message is what stands before the text, without the tokens that end the message: `ids` puts the
        # text and what stands after it there, and then those tokens.
        prompt = chat.prompt([before.strip()])
        post = chat.post_query_ids
        special = {number: token for token, number in chat.tokenizer.special_tokens.items()}
        return cls(
            chat,
            tuple(prompt[: len(prompt) - len(post)]),
            (*chat.encode(after.rstrip()), *post),
            special,
            {_FENCE: _fences(chat, _FENCE)},
        )

    def quote(self, text: str) -> Quote:
        """A text to be asked about, encoded once for all the prompts in one chat format."""
        # The text was written by a model and may be hostile: nothing in it may end the user's message early. Special
        # tokens in it are replaced by blanks. Removing one may join the text on both sides to another: what is left of
        # them after that is dropped as ids.
        body = self.chat.encode(text)
        special_texts = {self.special[number] for number in body if number in self.special}
        if special_texts:
            for token in special_texts:
                text = text.replace(token, " ")
            body = [number for number in self.chat.encode(text) if number not in self.special]
        # The fences around it are longer than any run of backticks in it, as in Markdown.
        fence = _FENCE
        while fence in text:
            fence += "`"
        opening, closing = self.fences.get(fence) or _fences(self.chat, fence)
        return Quote(opening, body, closing)

    def ids(self, text: str | Quote, *, room: int) -> list[int]:
        """The prompt for one text, in at most `room` tokens."""
        quote = self.quote(text) if isinstance(text, str) else text
        opening, body, closing = quote.opening, quote.body, quote.closing
        room_for_body = room - len(self.before) - len(opening) - len(closing) - len(self.after)
        if len(body) > room_for_body:
            # The reader is told, or it might call a question without an end poor.
            mark = self.chat.encode(_CUT)
            body = [*body[: max(0, room_for_body - len(mark))], *mark]
        return [*self.before, *opening, *body, *closing, *self.after]


def _fences(chat: ChatFormat, fence: str) -> tuple[list[int], list[int]]:
    return chat.encode(f"\n{fence}\n"), chat.encode(f"\n{fence}")
