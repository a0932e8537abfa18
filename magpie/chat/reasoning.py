"""How a model's reasoning is marked off from its answer, and the switches that tell a chat template to leave it out."""

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
    """The texts that open a model's reasoning and end it. What follows `end` is the answer."""

    begin: str
    end: str

    @property
    def has_channels(self) -> bool:
        """Whether reasoning is a message of its own, ended by tokens that end other messages too (harmony)."""
        return self == _HARMONY

    @property
    def answer_opener(self) -> str:
        """What stands right before an answer: the end of the reasoning, or the header of the channel for answers."""
        return self.end[self.end.rfind("<|channel|>") :] if self.has_channels else self.end

    def is_marked_by(self, token: str) -> bool:
        """Whether a special token has its place where reasoning begins or ends."""
        return token in self.begin or token in self.end

    def is_open(self, header: str) -> bool:
        """Whether what is written after `header` is reasoning."""
        return header.rfind(self.begin) > header.rfind(self.end)

    def split(self, text: str, *, opened: bool, opener: str = "") -> tuple[str | None, str]:
        """The reasoning in what was written, None where there is none, and the answer after it, both stripped.

        `opened` says that the header has opened the reasoning already; `opener` is what the model writes of a header
        of its own before an answer.
        """
        text = text.strip()
        begins = text.startswith(self.begin)
        before, ended, after = text.partition(self.end)
        if not (opened or begins or (ended and self.begin not in before)):
            return None, text.removeprefix(opener).strip()
        thought = before.strip().removeprefix(self.begin)
        if self.has_channels:
            thought = "\n".join(part.strip() for part in _HARMONY_SEAM.split(thought) if part.strip())
        return thought.strip(), after.strip().removeprefix(opener).strip()


_HARMONY = Reasoning("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>")
_HARMONY_SEAM = re.compile(
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
    """How a model writes its reasoning, by its chat template's text, or else by its special tokens."""
    for text in (template, "\n".join(tokens)):
        if "<|channel|>" in text and ("analysis" in text or "<|message|>" in text):
            return _HARMONY
        for known in _KNOWN:
            if known.begin in text or known.end in text:
                return known
        for name in _TAG.findall(text):
            if f"</{name}>" in text:
                return Reasoning(f"<{name}>", f"</{name}>")
    return None


def find_switches(template: str, variables: Iterable[str]) -> dict[str, Any]:
    """What to give a chat template that reads these variables so that the model does not reason."""
    names = set(variables)
    found = {name: off for name, off in _SWITCHES.items() if name in names}
    if _EFFORT in names and re.search(r"""["']none["']""", template):
        found[_EFFORT] = "none"
    return found
