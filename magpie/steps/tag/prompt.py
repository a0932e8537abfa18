"""The judge's prompt. The instruction is the last thing in it: everything before it is the same for every row, and is
cached by engines that cache prefixes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magpie import shipped
from magpie.recipe import TagName

if TYPE_CHECKING:
    from magpie.chat import ChatFormat

_PLACE = "\x00instruction\x00"
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
        asked = chat.prompt([before.strip()])
        post = chat.post_query_ids
        special = {number: token for token, number in chat.tokenizer.special_tokens.items()}
        return cls(
            chat, tuple(asked[: len(asked) - len(post)]), (*chat.encode(after.rstrip()), *post), special
        )

    def ids(self, instruction: str, *, room: int) -> list[int]:
        """The prompt for one instruction, in at most `room` tokens.

        The instruction was written by a model and may be hostile. It stands between fences that do not occur in it, and
        special tokens of the judge in it are blanked, so that neither can end the message early.
        """
        body = self.chat.encode(instruction)
        found = {self.special[number] for number in body if number in self.special}
        if found:
            for text in found:
                instruction = instruction.replace(text, " ")
            body = [number for number in self.chat.encode(instruction) if number not in self.special]
        fence = "```"
        while fence in instruction:
            fence += "`"
        opening, closing = self.chat.encode(f"\n{fence}\n"), self.chat.encode(f"\n{fence}")
        left = room - len(self.before) - len(opening) - len(closing) - len(self.after)
        if len(body) > left:
            mark = self.chat.encode(_CUT)
            body = [*body[: max(0, left - len(mark))], *mark]
        return [*self.before, *opening, *body, *closing, *self.after]


def source(tag: TagName) -> str:
    """The shipped wording of one tag's prompt, a Jinja template."""
    return (shipped.folder("templates/judge") / f"{tag}.jinja").read_text(encoding="utf-8").strip()
