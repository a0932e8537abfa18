"""The published rules for instructions and for instances. What breaks one is out for a reason that says which."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from magpie.self_instruct.parsing import Draft
from magpie.self_instruct.tasks import Instance

TOO_SHORT = "too few words"
TOO_LONG = "too many words"
UNSERVED = "needs more than text"
OPENING = "an opening that the recipe refuses"
PUNCTUATION = "begins with punctuation"
NOT_ASCII = "begins outside ASCII"
EMPTY = "empty"
SAME = "output is input"
COLON = "ends in a colon"
CONTRADICTS = "one input, two outputs"
TWICE = "written twice"
MANY = "more than enough"


def tidied(text: str) -> str:
    """A candidate as an instruction: on one line, its first letter a capital, and every other as it was written."""
    # The original's `capitalize` makes "python" and "usa" of all later names.
    line = " ".join(text.split())
    return line[:1].upper() + line[1:]


class InstructionRules:
    """The rules about one instruction by itself."""

    def __init__(
        self,
        *,
        min_words: int,
        max_words: int,
        words: Sequence[str],
        openings: Sequence[str],
        punctuation: bool,
        ascii_only: bool,
    ) -> None:
        self._min, self._max = min_words, max_words
        self._words = _any_of(words)
        self._openings = _any_of(openings)
        self._punctuation, self._ascii_only = punctuation, ascii_only

    def problem(self, text: str) -> str | None:
        """Why a tidied instruction is out: the first rule that it breaks; None where it breaks none."""
        if not text:
            return EMPTY
        count = len(text.split())
        broken = {
            TOO_SHORT: count < self._min,
            TOO_LONG: count > self._max,
            UNSERVED: bool(self._words and self._words.search(text)),
            OPENING: bool(self._openings and self._openings.match(text)),
            PUNCTUATION: self._punctuation and text[0] in string.punctuation,
            NOT_ASCII: self._ascii_only and not text[0].isascii(),
        }
        return next((reason for reason, is_broken in broken.items() if is_broken), None)


def _any_of(words: Sequence[str]) -> re.Pattern[str] | None:
    """Any of these, as whole words in any case; None where there are none."""
    if not words:
        return None
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)


def screen_instances(drafts: Sequence[Draft], *, most: int) -> tuple[list[Instance], list[str]]:
    """The instances that break no rule, in the order they were written, and a reason for each of the others.

    Where one input has two outputs, nobody knows which is right: all of the task's instances are out.
    """
    kept: list[Instance] = []
    reasons: list[str] = []
    for draft in drafts:
        # Each of them, and not the last alone: a cut shows wherever a text ends in a colon.
        reason = draft.problem or _problem(draft)
        one = Instance(draft.input, draft.output)
        if reason is None and one in kept:
            reason = TWICE
        if reason is None:
            kept.append(one)
        else:
            reasons.append(reason)
    outputs: dict[str, str] = {}
    if any(one.input and outputs.setdefault(one.input, one.output) != one.output for one in kept):
        return [], [*reasons, *[CONTRADICTS] * len(kept)]
    return kept[:most], [*reasons, *[MANY] * len(kept[most:])]


def _problem(draft: Draft) -> str | None:
    if not draft.output:
        return EMPTY
    if draft.input == draft.output:
        return SAME
    return COLON if draft.input.endswith(":") or draft.output.endswith(":") else None
