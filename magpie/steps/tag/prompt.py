"""The judge's prompt, with the instruction at its end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magpie.errors import ChatFormatError, RecipeError
from magpie.steps.base import PLACE, QuotingPrompt

if TYPE_CHECKING:
    from magpie.chat import ChatFormat

_INSTRUCTION = re.compile(r"\{\{ *instruction *\}\}")
_JINJA = re.compile(r"\{[{%#]")
_LINE_END = re.compile("\r\n|\r")  # which Jinja makes one of


@dataclass(frozen=True, slots=True)
class JudgePrompt(QuotingPrompt):
    """The judge's prompt for one tag, for any instruction."""

    @classmethod
    def load(cls, wording: str, chat: ChatFormat) -> JudgePrompt:
        """The prompt of one question, a Jinja template, in the judge's chat format. Raises RecipeError."""
        rendered = _rendered(wording)
        times = rendered.count(PLACE)
        if times != 1:
            raise RecipeError(
                f"a prompt in `tag.questions` writes the instruction {times} times, and once is right; let "
                "`{{ instruction }}` stand by itself, in no block and with no filter"
            )
        return cls.around(rendered, chat)


def _rendered(wording: str) -> str:
    plain = _INSTRUCTION.sub(lambda _: PLACE, _LINE_END.sub("\n", wording))
    if not _JINJA.search(plain):
        return plain  # nothing to work out, as in all that ship: no process is started for it
    from magpie.chat.jinja import render_prompt

    try:
        # A recipe comes from anybody, and its templates may do what any program does.
        return render_prompt(wording, {"instruction": PLACE})
    except ChatFormatError as error:
        raise RecipeError(
            f"a prompt in `tag.questions` is no template ({error}); a judge's prompt holds `{{{{ instruction }}}}` "
            "and no other variable"
        ) from error
