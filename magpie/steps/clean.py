"""Strips what a generator writes around a message, and rejects what is no message.

A model that has seen quizzes, forums and prompt lists often opens the user's turn as they do: "Question:", "1.",
"### Instruction:", a quotation. The message is what is left when that is gone. What cannot be mended is rejected with
one of the reasons in REASONS, so that a run can be counted by them.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie.recipe import Clean, Model, Recipe
from magpie.steps.base import REJECTED, ModelUse, RowStep, RowWork, Tools, is_looping, live, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

ENGINE_ERROR = "clean: engine error"
CUT = "clean: cut by length"
ROLE_HEADER = "clean: role header inside"
EMPTY = "clean: empty"
NO_WORDS = "clean: no words"
TOO_SHORT = "clean: too short"
TOO_LONG = "clean: too long"
LOOPING = "clean: looping text"
REASONS = (ENGINE_ERROR, CUT, ROLE_HEADER, EMPTY, NO_WORDS, TOO_SHORT, TOO_LONG, LOOPING)
"""Every reason this step gives, in the order in which they are looked for. An engine's own words are in
`instruct_error`."""

_PROBLEMS = {ROLE_HEADER: "leaked", LOOPING: "looping", CUT: "cut", EMPTY: "empty", NO_WORDS: "empty"}
_BROKEN_OFF = {"error": ENGINE_ERROR, "length": CUT, "repetition": LOOPING}
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "「": "」", "`": "`", "**": "**"}
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
_LABEL = (
    r"(?:user['’]?s?\s+(?:question|query|prompt|message|request|input|instruction)|questions?|instructions?|prompts?"
    r"|problem|task|query|request|exercise|user|human|q|问题|問題|指令|用户)"
)
_PREFIX = re.compile(
    rf"[#>*_\s]*{_LABEL}\s*\#?\d{{0,4}}[*_\s]*[:：][*_]*\s*|\#{{1,6}}\s*{_LABEL}\s*\d{{0,4}}\s*\n\s*",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\(?(\d{1,3})(?:[.)]\s+|、\s*)")
_BULLET = re.compile(r"[-–*•]\s+(?=[^\d\s])")
_FURTHER_BULLET = re.compile(r"\n\s*[-–*•]\s")

_SPEAKER = re.compile(r"\W{0,8}(?:user|human)\W{0,4}:", re.IGNORECASE)
_FURTHER_SPEAKER = re.compile(
    r"\n\W{0,8}(?:assistant|ai|chatbot|bot|system|user|human)\W{0,4}:", re.IGNORECASE
)
_LETTER = re.compile(r"[^\W\d_]")
_SUM = re.compile(r"\d\s*[-+*/^=<>×÷−%]")

_MOST_LAYERS = 8


@dataclass(frozen=True, slots=True)
class CleanStep(RowStep):
    """Adds `instruction`, null where the row is rejected; the raw text stays in `raw_instruction`."""

    part: Clean
    role: str
    model: Model

    name = "clean"
    reads = ("raw_instruction", "instruct_finish_reason", "instruct_error")
    adds = pa.schema([pa.field("instruction", pa.string()), REJECTED])
    version = 2

    @property
    def settings(self) -> dict[str, Any]:
        """The lengths and what comes off; the leaks come from the chat format, which has an identity of its own."""
        return self.part.model_dump(mode="json")

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[CleanStep, ...]:
        """The step: every recipe cleans what its generator wrote."""
        role = recipe.instruct.model
        return (cls(recipe.clean, role, recipe.model(role)),)

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.role, self.model, "format", "chat")

    @property
    def bytes_per_row(self) -> int:
        return 60

    def problem(self, reason: str) -> str | None:
        return _PROBLEMS.get(reason)

    def bind(self, tools: Tools) -> Cleaner:
        return Cleaner(self.part, tools.chat(self.model).leaks)


@dataclass(frozen=True, slots=True)
class Cleaner(RowWork[None]):
    """Cleans rows. `leaks` are texts that no person types: the generator's role headers and special tokens."""

    part: Clean
    leaks: tuple[str, ...] = ()

    async def run(self, rows: pa.Table, _: None) -> pa.Table:
        """Cleans the rows in a thread, so that an engine fed by the same event loop is not kept waiting."""
        return await asyncio.to_thread(self._clean, rows)

    def _clean(self, rows: pa.Table) -> pa.Table:
        leak = re.compile("|".join(map(re.escape, self.leaks))) if self.leaks else None
        texts = rows["raw_instruction"].to_pylist()
        finishes = rows["instruct_finish_reason"].to_pylist()
        at = live(rows)
        instructions: list[str | None] = []
        reasons: list[str | None] = []
        for row in at:
            raw = texts[row] or ""
            kept = cut(raw, self.part.cut_at)
            # What happened to a text behind the cut is no matter: only a request that failed is.
            finish = "stop" if len(kept) < len(raw) and finishes[row] != "error" else finishes[row]
            text = strip(kept, prefixes=self.part.prefixes)
            reason = self._broken(kept, finish, leak) or self._unfit(text)
            instructions.append(None if reason else text)
            reasons.append(reason)
        return spread(rows, at, {"instruction": instructions, "rejected": reasons}, CleanStep.adds)

    def _broken(self, raw: str, finish: str | None, leak: re.Pattern[str] | None) -> str | None:
        """Why the completion as a whole is no message."""
        if finish in _BROKEN_OFF:
            return _BROKEN_OFF[finish]
        if (leak and leak.search(raw)) or is_conversation(raw):
            return ROLE_HEADER
        return None

    def _unfit(self, text: str) -> str | None:
        """Why a stripped text is no message."""
        if not text:
            return EMPTY
        if not _LETTER.search(text) and not _SUM.search(text):
            return NO_WORDS
        if len(text) < self.part.min_length:
            return TOO_SHORT
        if len(text) > self.part.max_length:
            return TOO_LONG
        return LOOPING if is_looping(text) else None


def cut(text: str, at: Sequence[str]) -> str:
    """The text up to the first of the texts `at`."""
    return text[: min((place for mark in at if (place := text.find(mark)) >= 0), default=len(text))]


def strip(text: str, *, prefixes: Sequence[str] = ()) -> str:
    """The message in `text`: without outer space, wrapping quotes, labels such as "Question:", and numbering.

    Layer by layer: '1. **Question:** "Why?"' is 'Why?'. Numbering stays where the text counts on, and a bullet where
    more follow, because there it belongs to a list. `prefixes` come off like labels, in upper or lower case.
    """
    own = re.compile("|".join(map(re.escape, sorted(prefixes, key=len, reverse=True))), re.IGNORECASE)
    for _ in range(_MOST_LAYERS):
        bare = _unwrap(text.strip())
        prefix = _PREFIX.match(bare) or own.match(bare)
        shorter = _strip_numbering(bare[prefix.end() :] if prefix else bare)
        if shorter == text:
            break
        text = shorter
    return text


def is_conversation(text: str) -> bool:
    """Whether the text opens with a speaker's name and goes on with another: the model wrote both sides."""
    return bool(_SPEAKER.match(text)) and bool(_FURTHER_SPEAKER.search(text))


def _unwrap(text: str) -> str:
    """Without quotes around the whole, or the one quotation mark at an end that was left open (27" is no such)."""
    if text.count('"') == 1:
        if text[0] == '"':
            return text[1:].strip()
        return text[:-1].strip() if text[-1] == '"' and not text[-2].isdecimal() else text
    mark = text[:2] if text[:2] == "**" else text[:1]
    close = _QUOTES.get(mark)
    if close is None or len(text) <= 2 * len(mark) or not text.endswith(close):
        return text
    inside = text[len(mark) : -len(close)]
    bare = _APOSTROPHE.sub("", inside) if close in "'’" else inside
    return text if mark in bare or close in bare else inside.strip()


def _strip_numbering(text: str) -> str:
    if number := _NUMBER.match(text):
        following = int(number[1]) + 1
        counts_on = re.search(rf"(?<!\S)\(?{following}[.)、]", text[number.end() :])
        return text if counts_on else text[number.end() :]
    if bullet := _BULLET.match(text):
        return text if _FURTHER_BULLET.search(text) else text[bullet.end() :]
    return text
