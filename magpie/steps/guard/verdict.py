"""What a guard says of a message, in the spelling of each family, and what the verdicts on a row come to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from magpie.engines.base import Completion
from magpie.recipe import GuardSubject
from magpie.steps.base import CUT, engine_error

SAFE, UNSAFE = "safe", "unsafe"

_CATEGORY = r"[A-Za-z]{1,3}\d{1,3}"
# Llama Guard: "safe", or "unsafe" and its categories, on a line of their own or behind it.
_LLAMA_GUARD = re.compile(
    rf"(safe|unsafe)[.,:]?(?:\s*((?<=\s){_CATEGORY}(?:[\s,]+{_CATEGORY})*)[\s,.]*)?", re.IGNORECASE
)
# ShieldGemma: whether the message breaks its policy, and perhaps why.
_SHIELD_GEMMA = re.compile(r"(yes|no)\b[.,]?(?:\s*\n.*)?", re.IGNORECASE | re.DOTALL)
# Granite Guardian 3.3: the same between tags. Earlier ones say it as ShieldGemma does, and how sure they are below it.
_GRANITE_GUARDIAN = re.compile(r"<score>\s*(yes|no)\s*</score>", re.IGNORECASE)
# Qwen3Guard: one line for each thing it says. "Controversial" is unsafe to some readers, so it is not safe here.
_QWEN_GUARD = re.compile(
    r"safety:\s*(safe|unsafe|controversial)\s*(?:\ncategories:\s*([^\n]*?)\s*)?(?:\nrefusal:\s*(?:yes|no)\s*)?",
    re.IGNORECASE,
)
# WildGuard judges a request and its answer in one text.
_WILD_GUARD = re.compile(
    r"harmful request:\s*(yes|no)\s*\nresponse refusal:\s*(?:yes|no|n/a)\s*\nharmful response:\s*(yes|no|n/a)",
    re.IGNORECASE,
)
_THINKING = re.compile(r".*</think>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class GuardVerdict:
    """The guard's verdict on one message: `label` is SAFE or UNSAFE, or null, and then `error` says why."""

    label: str | None
    categories: tuple[str, ...] = ()
    error: str | None = None

    @classmethod
    def read(cls, completion: Completion) -> GuardVerdict:
        """The verdict in the guard's completion, which must hold it and nothing else."""
        if completion.finish_reason == "error":
            return cls(None, error=engine_error(completion))
        if completion.finish_reason != "stop":
            return cls(None, error=CUT)
        # The whole text: a guard that was made to talk may write "safe" or "unsafe" in any sentence.
        verdict = _verdict(_THINKING.sub("", completion.text).strip())
        if verdict is None:
            return cls(None, error="not a verdict")
        is_unsafe, categories = verdict
        return cls(UNSAFE if is_unsafe else SAFE, tuple(dict.fromkeys(categories)))


def _verdict(text: str) -> tuple[bool, list[str]] | None:
    """Whether the guard finds the message unsafe, and its categories; None where the text is no verdict."""
    text = text.replace("\r\n", "\n")
    if match := _LLAMA_GUARD.fullmatch(text):
        is_unsafe = match[1].casefold() == UNSAFE
        categories = re.findall(_CATEGORY, match[2] or "")
        # "safe" with categories says two things.
        return (is_unsafe, [name.upper() for name in categories]) if is_unsafe or not categories else None
    if match := _SHIELD_GEMMA.fullmatch(text) or _GRANITE_GUARDIAN.fullmatch(text):
        return match[1].casefold() == "yes", []
    if match := _QWEN_GUARD.fullmatch(text):
        named = [name.strip() for name in (match[2] or "").split(",")]
        return match[1].casefold() != SAFE, [name for name in named if name and name.casefold() != "none"]
    if match := _WILD_GUARD.fullmatch(text):
        # The last message is the one judged: the answer, where there is one.
        judged = match[1] if match[2].casefold() == "n/a" else match[2]
        return judged.casefold() == "yes", []
    return None


def together(verdicts: Sequence[GuardVerdict]) -> GuardVerdict:
    """One verdict for all messages of a row."""
    labels = [verdict.label for verdict in verdicts]
    categories = tuple(dict.fromkeys(name for verdict in verdicts for name in verdict.categories))
    # One unsafe message is enough, whatever the missing verdicts would be. For "safe" all of them are needed.
    if UNSAFE in labels:
        return GuardVerdict(UNSAFE, categories)
    return GuardVerdict(None if None in labels else SAFE)


def joined(verdict: GuardVerdict) -> str | None:
    """The categories as they stand in a column."""
    return ",".join(verdict.categories) or None


def errors(subjects: Sequence[GuardSubject], verdicts: Sequence[GuardVerdict]) -> str | None:
    """Which verdicts on a row are missing, and why; None where none is."""
    missing = [
        f"{subject}: {verdict.error}"
        for subject, verdict in zip(subjects, verdicts, strict=True)
        if verdict.error
    ]
    return "; ".join(missing) or None
