"""The judge's prompt. The instruction stands at its end: all tokens before it are the same for every row, so that an
engine with a prefix cache computes them once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magpie import shipped
from magpie.recipe import TagName

if TYPE_CHECKING:
    from magpie.chat import ChatFormat

_PLACE = "\x00instruction\x00"  # with characters that no template contains
_CUT = "\n[the rest is left out]"


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """A judge's prompt as token ids: everything before the instruction is encoded once, for all rows."""

    chat: ChatFormat
    before: tuple[int, ...]
    after: tuple[int, ...]
    special: Mapping[int, str]

    @classmethod
    def load(cls, tag: TagName, chat: ChatFormat) -> JudgePrompt:
        """The shipped prompt of one tag, in the judge's chat format."""
        from jinja2 import StrictUndefined
        from jinja2.sandbox import SandboxedEnvironment

        environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
        text = environment.from_string(source(tag)).render(instruction=_PLACE)
        before, _, after = text.partition(_PLACE)
        # A prompt whose message is the text before the instruction, without the tokens that end the message: `ids` puts
        # the instruction and the text after it there, and then those tokens.
        prompt = chat.prompt([before.strip()])
        post = chat.post_query_ids
        special = {number: token for token, number in chat.tokenizer.special_tokens.items()}
        return cls(
            chat, tuple(prompt[: len(prompt) - len(post)]), (*chat.encode(after.rstrip()), *post), special
        )

    def ids(self, instruction: str, *, room: int) -> list[int]:
        """The prompt for one instruction, in at most `room` tokens."""
        # The instruction was written by a model and may be hostile: nothing in it may end the judge's message early.
        # Special tokens of the judge are replaced by blanks in the text. Removing one may join the text on both sides
        # to another: what is left of them after that is dropped as ids.
        body = self.chat.encode(instruction)
        special_texts = {self.special[number] for number in body if number in self.special}
        if special_texts:
            for text in special_texts:
                instruction = instruction.replace(text, " ")
            body = [number for number in self.chat.encode(instruction) if number not in self.special]
        # The fences around it are longer than any run of backticks in it, as in Markdown.
        fence = "```"
        while fence in instruction:
            fence += "`"
        opening, closing = self.chat.encode(f"\n{fence}\n"), self.chat.encode(f"\n{fence}")
        room_for_body = room - len(self.before) - len(opening) - len(closing) - len(self.after)
        if len(body) > room_for_body:
            # The judge is told, or it might call a question without an end poor.
            mark = self.chat.encode(_CUT)
            body = [*body[: max(0, room_for_body - len(mark))], *mark]
        return [*self.before, *opening, *body, *closing, *self.after]


def source(tag: TagName) -> str:
    """The shipped wording of one tag's prompt, a Jinja template."""
    return (shipped.folder("templates/judge") / f"{tag}.jinja").read_text(encoding="utf-8").strip()
