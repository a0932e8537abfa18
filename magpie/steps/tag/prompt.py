"""The judge's prompt, with the instruction at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magpie import shipped
from magpie.recipe import TagName
from magpie.steps.base import QuotingPrompt

if TYPE_CHECKING:
    from magpie.chat import ChatFormat


@dataclass(frozen=True, slots=True)
class JudgePrompt(QuotingPrompt):
    """The judge's prompt for one tag, for any instruction."""

    @classmethod
    def load(cls, tag: TagName, chat: ChatFormat) -> JudgePrompt:
        """The shipped prompt of one tag, in the judge's chat format."""
        return cls.of(source(tag), "instruction", chat)


def source(tag: TagName) -> str:
    """The shipped wording of one tag's prompt, a Jinja template."""
    return (shipped.folder("templates/judge") / f"{tag}.jinja").read_text(encoding="utf-8").strip()
