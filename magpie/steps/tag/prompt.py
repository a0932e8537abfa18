"""The judge's prompt, with the instruction at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magpie.errors import RecipeError
from magpie.steps.base import QuotingPrompt

if TYPE_CHECKING:
    from magpie.chat import ChatFormat


@dataclass(frozen=True, slots=True)
class JudgePrompt(QuotingPrompt):
    """The judge's prompt for one tag, for any instruction."""

    @classmethod
    def load(cls, wording: str, chat: ChatFormat) -> JudgePrompt:
        """The prompt of one question, a Jinja template, in the judge's chat format. Raises RecipeError."""
        from jinja2 import TemplateError

        try:
            return cls.of(wording, "instruction", chat)
        except TemplateError as error:
            raise RecipeError(
                f"a prompt in `tag.questions` is no template ({error}); a judge's prompt holds `{{{{ instruction }}}}` "
                "and no other variable"
            ) from error
