"""The marks between a model's reasoning and its answer, and the template variables that switch reasoning off."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_SWITCHES: dict[str, Any] = {
    "enable_thinking": False,
    "thinking": False,
    "enable_reasoning": False,
    "reasoning": False,
    "think": False,
    "thinking_budget": 0,
}
_EFFORT = "reasoning_effort"
_TAG = re.compile(r"<([\w:.-]*(?:think|thought|reason)[\w:.-]*)>")


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The texts that begin a model's reasoning and end it. What follows `end` is the answer."""

    begin: str
    end: str

    @property
    def has_channels(self) -> bool:
        """Whether reasoning is a message of its own, ended by tokens that end other messages too (harmony)."""
        return self == _HARMONY

    @property
    def answer_opener(self) -> str:
        """The text right before an answer: the end of the reasoning, or the header of the channel for answers."""
        return self.end[self.end.rfind("<|channel|>") :] if self.has_channels else self.end

    def is_marked_by(self, token: str) -> bool:
        """Whether a special token is part of the marks that begin or end reasoning."""
        return token in self.begin or token in self.end

    def is_open(self, header: str) -> bool:
        """Whether the text after `header` is reasoning: its last mark begins reasoning and does not end it."""
        return header.rfind(self.begin) > header.rfind(self.end)

    def split(self, text: str, *, opened: bool, opener: str = "") -> tuple[str | None, str]:
        """The reasoning in `text`, None where there is none, and the answer after it, both stripped.

        `opened`: the header has begun the reasoning already. `opener`: a header that the model may write before its
        answer.
        """
        text = text.strip()
        begins = text.startswith(self.begin)
        before, ended, after = text.partition(self.end)
        # An end without a beginning also counts: some models leave the beginning out. An answer that writes about both
        # marks does not begin with one, and is left whole.
        if not (opened or begins or (ended and self.begin not in before)):
            return None, text.removeprefix(opener).strip()
        reasoning = before.strip().removeprefix(self.begin)
        if self.has_channels:
            # The model may write several messages of reasoning, with headers between them.
            reasoning = "\n".join(part.strip() for part in _HARMONY_HEADER.split(reasoning) if part.strip())
        return reasoning.strip(), after.strip().removeprefix(opener).strip()


_HARMONY = Reasoning("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>")
_HARMONY_HEADER = re.compile(
    r"<\|end\|>(?:<\|start\|>assistant)?(?:<\|channel\|>[^<]*<\|message\|>)?|<\|channel\|>[^<]*<\|message\|>"
)
THINK_TAGS = Reasoning("<think>", "</think>")
_KNOWN = (
    _HARMONY,
    THINK_TAGS,
    Reasoning("[THINK]", "[/THINK]"),
    Reasoning("<|START_THINKING|>", "<|END_THINKING|>"),
    Reasoning("<|begin_of_thought|>", "<|end_of_thought|>"),
)


def find_reasoning(template: str, tokens: Iterable[str]) -> Reasoning | None:
    """How a model marks its reasoning, by its chat template's text, or else by its special tokens."""
    # The template first: a tokenizer may have tokens that this model was never trained on.
    for text in (template, "\n".join(tokens)):
        if "<|channel|>" in text and ("analysis" in text or "<|message|>" in text):
            return _HARMONY
        for marks in _KNOWN:
            if marks.begin in text or marks.end in text:
                return marks
        # Marks that are not in the list, but look like a pair of tags with a telling name.
        for name in _TAG.findall(text):
            if f"</{name}>" in text:
                return Reasoning(f"<{name}>", f"</{name}>")
    return None


def find_switches(template: str, variables: Iterable[str]) -> dict[str, Any]:
    """The variables, of those that a chat template reads, that switch reasoning off, with their values."""
    names = set(variables)
    switches = {name: off for name, off in _SWITCHES.items() if name in names}
    # Only some templates know this effort; the others would write it into the prompt.
    if _EFFORT in names and re.search(r"""["']none["']""", template):
        switches[_EFFORT] = "none"
    return switches
