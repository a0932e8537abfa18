"""A guard judges whether messages are safe: models such as Llama Guard, in their own chat template.

Such a template puts the conversation between its own instructions, and the model writes "safe", or "unsafe" and on a
second line the categories, such as "S1,S9". The last message is the one judged.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie.engines.base import Completion, Sampling
from magpie.errors import ChatFormatError
from magpie.recipe import Guard, GuardSubject, Model, Recipe
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import ModelUse, RowStep, RowWork, Tools, column, judged_or_not, live, spread

if TYPE_CHECKING:
    from magpie.chat import Transcript
    from magpie.engines.base import Engine

SAFE, UNSAFE = "safe", "unsafe"

_ANSWERS: Mapping[GuardSubject, str] = {"response": "response", "chosen": "chosen_response"}

_CATEGORY = r"[A-Za-z]{1,3}\d{1,3}"
# Llama Guard: "safe", or "unsafe" and its categories, on a line of their own or behind it.
_LLAMA_GUARD = re.compile(
    rf"(safe|unsafe)[.,:]?(?:\s*((?<=\s){_CATEGORY}(?:[\s,]+{_CATEGORY})*)[\s,.]*)?", re.IGNORECASE
)
# ShieldGemma: whether the message breaks its policy, and perhaps why.
_SHIELD_GEMMA = re.compile(r"(yes|no)\b[.,]?(?:\s*\n.*)?", re.IGNORECASE | re.DOTALL)
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
            return cls(None, error=completion.error or "engine error")
        if completion.finish_reason != "stop":
            return cls(None, error="cut by length")
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
    if match := _SHIELD_GEMMA.fullmatch(text):
        return match[1].casefold() == "yes", []
    if match := _QWEN_GUARD.fullmatch(text):
        named = [name.strip() for name in (match[2] or "").split(",")]
        return match[1].casefold() != SAFE, [name for name in named if name and name.casefold() != "none"]
    if match := _WILD_GUARD.fullmatch(text):
        # The last message is the one judged: the answer, where there is one.
        judged = match[1] if match[2].casefold() == "n/a" else match[2]
        return judged.casefold() == "yes", []
    return None


@dataclass(frozen=True, slots=True)
class GuardStep(RowStep):
    """Adds `llama_guard` and `guard_category`, and the same two for each message that is judged.

    `llama_guard` is "unsafe" if any of the messages is, "safe" if all are, and null if a verdict is missing.
    `guard_category` holds the categories, joined by commas; null where there is none. `guard_error` says which verdict
    is missing and why. No row is rejected: a rule of the filter does that.
    """

    part: Guard
    model: Model

    name = "guard"
    outcome_columns = ("guard_error",)

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[GuardStep, ...]:
        """The step, where the recipe has a guard."""
        part = recipe.guard
        return () if part is None else (cls(part, recipe.model(part.model)),)

    @property
    def reads(self) -> tuple[str, ...]:
        """An answer is judged as what follows its instruction."""
        return ("instruction", *(_ANSWERS[subject] for subject in self.part.of if subject in _ANSWERS))

    @property
    def adds(self) -> pa.Schema:
        """The columns for all messages together, then those for each, such as `response_guard`."""
        fields = [
            column(
                "llama_guard",
                pa.string(),
                '"unsafe" if the guard finds any message of the row unsafe, "safe" if none; null where a verdict is '
                "missing.",
                published="llama_guard_2",
            ),
            column(
                "guard_category",
                pa.string(),
                "What is unsafe, such as S1, with commas; null where nothing is.",
            ),
        ]
        for subject in self.part.of:
            text = "chosen answer" if subject == "chosen" else subject
            fields += [
                column(f"{subject}_guard", pa.string(), f"The guard's verdict on the {text} alone."),
                column(f"{subject}_guard_category", pa.string(), f"What is unsafe in the {text}."),
            ]
        return pa.schema([*fields, column("guard_error", pa.string(), "Which verdict is missing, and why.")])

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model."""
        return self.part.model_dump(mode="json", exclude={"model"})

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", "transcript")

    @property
    def requests(self) -> tuple[Request, ...]:
        texts = {"instruction": lengths.INSTRUCTION}
        answered = lengths.INSTRUCTION + lengths.RESPONSE
        return tuple(
            Request(
                lengths.GUARD_TEMPLATE + texts.get(subject, answered),
                lengths.VERDICT,
                shared=lengths.GUARD_TEMPLATE,
            )
            for subject in self.part.of
        )

    @property
    def credited_as(self) -> str:
        return "guard_model"

    def outcomes(self, columns: Mapping[str, Any]) -> list[str]:
        return judged_or_not(columns["guard_error"])

    def bind(self, tools: Tools) -> GuardJudge:
        return GuardJudge(self, tools.transcript(self.model))


@dataclass(frozen=True, slots=True)
class GuardJudge(RowWork["Engine"]):
    """Asks the guard, in its own template."""

    step: GuardStep
    transcript: Transcript

    async def run(self, rows: pa.Table, engine: Engine) -> pa.Table:
        """One request for each message that is judged, all at once."""
        at = live(rows)
        texts = rows.select(self.step.reads).take(pa.array(at, pa.int64())).to_pylist()
        subjects = self.step.part.of
        judged = await asyncio.gather(
            *(self._judge(_turns(row, subject), engine) for row in texts for subject in subjects)
        )
        # The requests went row by row; here they are one list for each row again.
        count = len(subjects)
        verdicts = [judged[row * count : (row + 1) * count] for row in range(len(texts))]
        overall = [_together(row) for row in verdicts]
        columns: dict[str, list[Any]] = {
            "llama_guard": [verdict.label for verdict in overall],
            "guard_category": [_joined(verdict) for verdict in overall],
            "guard_error": [_errors(subjects, row) for row in verdicts],
        }
        for number, subject in enumerate(subjects):
            columns[f"{subject}_guard"] = [row[number].label for row in verdicts]
            columns[f"{subject}_guard_category"] = [_joined(row[number]) for row in verdicts]
        return spread(rows, at, columns, self.step.adds)

    async def _judge(self, turns: Sequence[str], engine: Engine) -> GuardVerdict:
        try:
            prompt = self.transcript.ids(turns, verdict=True)
        except ChatFormatError as error:
            return GuardVerdict(None, error=str(error))
        # Greedy, so that a seed changes nothing.
        sampling = Sampling(
            max_tokens=self.step.part.max_tokens, seed=0, temperature=0.0, stop_ids=self.transcript.stop_ids
        )
        return GuardVerdict.read(await engine.complete(prompt, sampling))


def _turns(row: Mapping[str, str], subject: GuardSubject) -> list[str]:
    """The conversation, up to the message that is judged: a template judges the last one."""
    return [row["instruction"], *([row[_ANSWERS[subject]]] if subject in _ANSWERS else [])]


def _together(verdicts: Sequence[GuardVerdict]) -> GuardVerdict:
    """One verdict for all messages of a row."""
    labels = [verdict.label for verdict in verdicts]
    categories = tuple(dict.fromkeys(name for verdict in verdicts for name in verdict.categories))
    # One unsafe message is enough, whatever the missing verdicts would be. For "safe" all of them are needed.
    if UNSAFE in labels:
        return GuardVerdict(UNSAFE, categories)
    return GuardVerdict(None if None in labels else SAFE)


def _joined(verdict: GuardVerdict) -> str | None:
    return ",".join(verdict.categories) or None


def _errors(subjects: Sequence[GuardSubject], verdicts: Sequence[GuardVerdict]) -> str | None:
    errors = [
        f"{subject}: {verdict.error}"
        for subject, verdict in zip(subjects, verdicts, strict=True)
        if verdict.error
    ]
    return "; ".join(errors) or None
