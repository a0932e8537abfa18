"""Strips what a generator writes around a message, and rejects texts that are not a message.

A model that has seen quizzes, forums and prompt lists often opens the user's turn as they do: "Question:", "1.",
"### Instruction:", a quotation. The message is what is left without that. A text that cannot be repaired is rejected
with one of the reasons in REASONS.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie.recipe import Clean, Model, Recipe
from magpie.steps.base import (
    REJECTED,
    ModelUse,
    RowStep,
    RowWork,
    Tools,
    column,
    is_looping,
    live,
    reasons,
    spread,
    values_at,
)
from magpie.steps.clean.dialogue import is_conversation
from magpie.steps.clean.numbering import strip_numbering
from magpie.text import COLONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ENGINE_ERROR = f"clean: {reasons.ENGINE_ERROR}"
CUT = f"clean: {reasons.CUT}"
ROLE_HEADER = f"clean: {reasons.ROLE_HEADER}"
EMPTY = "clean: empty"
NO_WORDS = "clean: no words"
TOO_SHORT = "clean: too short"
TOO_LONG = "clean: too long"
LOOPING = "clean: looping text"
REASONS = (ENGINE_ERROR, CUT, ROLE_HEADER, EMPTY, NO_WORDS, TOO_SHORT, TOO_LONG, LOOPING)
"""Every reason this step gives, in the order in which they are looked for. What the engine reported is in
`instruct_error`."""

# The reasons that point to a wrong chat format or sampling, in the words of `doctor`. A length is a matter of taste.
_PROBLEMS = {ROLE_HEADER: "leaked", LOOPING: "looping", CUT: "cut", EMPTY: "empty", NO_WORDS: "empty"}
_BROKEN_OFF = {"error": ENGINE_ERROR, "length": CUT, "repetition": LOOPING}
# What may close a quotation: „Deutsch“ and „polski” differ.
_QUOTES: dict[str, tuple[str, ...]] = {
    '"': ('"',), "'": ("'",), "“": ("”",), "‘": ("’",), "«": ("»",), "»": ("«",), "„": ("“", "”", "„"), "‚": ("‘", "’"),
    "‹": ("›",), "「": ("」",), "『": ("』",), "＂": ("＂",), "`": ("`",), "**": ("**",),
}  # fmt: skip
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
_LABEL = (
    r"(?:user['’]?s?\s+(?:question|query|prompt|message|request|input|instruction)|questions?|instructions?|prompts?"
    r"|problem|task|query|request|exercise|user|human|q|frage|aufgabe|nutzer|pregunta|usuario|domanda|pergunta|vraag"
    r"|fråga|spørgsmål|spørsmål|otázka|pytanie|kérdés|kysymys|soru|вопрос|задание|пользователь|سؤال|السؤال|प्रश्न"
    r"|câu hỏi|问题|問題|指令|用户|用戶|質問|指示|ユーザー|질문|사용자)"
)
# Either a label with a colon, in any mix of # > * _ and spaces: "**Question 3:** ". Or a Markdown heading that is a
# label and nothing else, with the message on the next line: "### Instruction".
_PREFIX = re.compile(
    rf"[#>*_\s]*{_LABEL}\s*\#?\d{{0,4}}[*_\s]*[{COLONS}][*_]*\s*|\#{{1,6}}\s*{_LABEL}\s*\d{{0,4}}\s*\n\s*",
    re.IGNORECASE,
)
_LETTER = re.compile(r"[^\W\d_]")
_SUM = re.compile(r"\d\s*[-+*/^=<>×÷−%]")  # "12 * 7 =" has no letter and is a task

# More than any real text has. A hostile one, such as a thousand quotes, is not stripped to its end.
_MOST_LAYERS = 8


@dataclass(frozen=True, slots=True)
class CleanStep(RowStep):
    """Adds `instruction`, null where the row is rejected; the raw text stays in `raw_instruction`."""

    part: Clean
    role: str
    model: Model

    name = "clean"
    reads = ("raw_instruction", "instruct_finish_reason", "instruct_error")
    adds = pa.schema(
        [
            column(
                "instruction",
                pa.string(),
                "The user's first message, cleaned of what leaks of the template and of numbering.",
                published="instruction",
            ),
            REJECTED,
        ]
    )
    version = 2

    @property
    def settings(self) -> dict[str, Any]:
        """The lengths, and what is stripped or cut."""
        # The leaks come from the chat format of the generator, which is in the fingerprint by itself.
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
        chat = tools.chat(self.model)
        return Cleaner(self.part, chat.leaks, chat.without_end)


@dataclass(frozen=True, slots=True)
class Cleaner(RowWork[None]):
    """Cleans rows. `leaks` are texts that no person types: the generator's role headers and special tokens.

    `without_end` takes away the tokens that end a turn, where an engine left them at the end of a text.
    """

    part: Clean
    leaks: tuple[str, ...] = ()
    without_end: Callable[[str], str] = str

    async def run(self, rows: pa.Table, _: None) -> pa.Table:
        """Cleans the rows in a thread, so that an engine fed by the same event loop is not kept waiting."""
        return await asyncio.to_thread(self._clean, rows)

    def _clean(self, rows: pa.Table) -> pa.Table:
        leak = re.compile("|".join(map(re.escape, self.leaks))) if self.leaks else None
        at = live(rows)
        raw_texts = [text or "" for text in values_at(rows, "raw_instruction", at)]
        finish_reasons = values_at(rows, "instruct_finish_reason", at)
        instructions: list[str | None] = []
        rejected: list[str | None] = []
        for raw, written in zip(raw_texts, finish_reasons, strict=True):
            whole = self.without_end(raw)
            kept = cut(whole, self.part.cut_at)
            # A text that got too long behind the cut is whole before it. A request that failed still counts as failed.
            finish_reason = "stop" if len(kept) < len(whole) and written != "error" else written
            text = strip(kept, prefixes=self.part.prefixes)
            # A leak is looked for in the text as it was written: stripping could take a part of the header away.
            reason = self._broken(kept, finish_reason, leak) or self._unfit(text)
            instructions.append(None if reason else text)
            rejected.append(reason)
        return spread(rows, at, {"instruction": instructions, "rejected": rejected}, CleanStep.adds)

    def _broken(self, raw: str, finish_reason: str | None, leak: re.Pattern[str] | None) -> str | None:
        """Why the completion as a whole is no message."""
        if finish_reason in _BROKEN_OFF:
            return _BROKEN_OFF[finish_reason]
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

    Layer by layer: '1. **Question:** "Why?"' becomes 'Why?'. `prefixes` are stripped like labels, in upper or lower
    case.
    """
    # The longest first: of "foo" and "foo bar" an alternation takes the one that stands first.
    own = re.compile("|".join(map(re.escape, sorted(prefixes, key=len, reverse=True))), re.IGNORECASE)
    for _ in range(_MOST_LAYERS):
        bare = _unwrap(text.strip())
        prefix = _PREFIX.match(bare) or own.match(bare)
        shorter = strip_numbering(bare[prefix.end() :] if prefix else bare)
        if shorter == text:
            break
        text = shorter
    return text


def _unwrap(text: str) -> str:
    """Without quotes around the whole text, or without a single quotation mark at its beginning or end."""
    if text.count('"') == 1:
        # The model opened or closed a quotation, and the other mark is not there. In `a screen of 27"` it means inches.
        if text[0] == '"':
            return text[1:].strip()
        return text[:-1].strip() if text[-1] == '"' and not text[-2].isdecimal() else text
    mark = text[:2] if text[:2] == "**" else text[:1]
    close = next((close for close in _QUOTES.get(mark, ()) if text.endswith(close)), None)
    if close is None or len(text) <= 2 * len(mark):
        return text
    inside = text[len(mark) : -len(close)]
    # More such marks inside: the two at the ends may belong to different quotations, as in '"Yes" or "no"'. An
    # apostrophe inside a word, as in "it's", is no such mark.
    bare = _APOSTROPHE.sub("", inside) if close in "'’" else inside
    return text if mark in bare or close in bare else inside.strip()
