"""A guard judges whether messages are safe: models such as Llama Guard, in their own chat template.

Such a template puts the conversation between its own instructions, and the model writes "safe", or "unsafe" and on a
second line the categories, such as "S1,S9". The last message is the one judged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie.engines.base import Sampling
from magpie.errors import ChatFormatError
from magpie.recipe import Guard, GuardSubject, Model, Recipe
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import (
    ModelUse,
    RowStep,
    RowWork,
    Tools,
    column,
    inner,
    judged_or_not,
    live,
    spread,
    values_at,
)
from magpie.steps.guard.verdict import GuardVerdict, errors, joined, together

if TYPE_CHECKING:
    from magpie.chat import Transcript
    from magpie.engines.base import Engine

_EARLY: tuple[GuardSubject, ...] = ("instruction",)  # what can be judged before there is an answer
_ANSWERS: Mapping[GuardSubject, str] = {"response": "response", "chosen": "chosen_response"}


@dataclass(frozen=True, slots=True)
class GuardStep(RowStep):
    """Adds `llama_guard` and `guard_category`, and the same two for each message that is judged.

    `llama_guard` is "unsafe" if any of the messages is, "safe" if all are, and null if a verdict is missing.
    `guard_category` holds the categories, joined by commas; null where there is none. `guard_error` says which verdict
    is missing and why. No row is rejected: a rule of the filter does that.

    `earlier` are messages that an `EarlyGuardStep` has judged: their verdicts are read.
    """

    part: Guard
    model: Model
    earlier: tuple[GuardSubject, ...] = ()

    name = "guard"
    outcome_columns = ("guard_error",)

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[GuardStep, ...]:
        """The step, where the recipe has a guard and this is its place: after the answers, if it judges any."""
        part = recipe.guard
        if part is None or (part.early and part.of == _EARLY):
            return ()
        return (cls(part, recipe.model(part.model), _EARLY if part.early else ()),)

    @classmethod
    def plan_early(cls, recipe: Recipe, _: pa.Schema) -> tuple[RowStep, ...]:
        """The step before the answers: this one where it judges the instruction alone, else one that does so."""
        part = recipe.guard
        if part is None or not part.early:
            return ()
        model = recipe.model(part.model)
        return (cls(part, model) if part.of == _EARLY else EarlyGuardStep(part, model),)

    @property
    def subjects(self) -> tuple[GuardSubject, ...]:
        """The messages that are judged here."""
        return tuple(subject for subject in self.part.of if subject not in self.earlier)

    @property
    def reads(self) -> tuple[str, ...]:
        """An answer is judged as what follows its instruction."""
        answers = (_ANSWERS[subject] for subject in self.subjects if subject in _ANSWERS)
        return ("instruction", *answers, *(name for subject in self.earlier for name in _names(subject)))

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
            *(field for subject in self.subjects for field in _fields(subject)),
        ]
        return pa.schema([*fields, column("guard_error", pa.string(), "Which verdict is missing, and why.")])

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model."""
        return _settings(self.part)

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", "transcript")

    @property
    def requests(self) -> tuple[Request, ...]:
        return _requests(self.subjects)

    @property
    def credited_as(self) -> str:
        return "guard_model"

    def outcomes(self, columns: Mapping[str, Any]) -> list[str]:
        return judged_or_not(columns["guard_error"])

    def bind(self, tools: Tools) -> GuardJudge:
        return GuardJudge(self, _Asking(self.part, tools.transcript(self.model)))


@dataclass(frozen=True, slots=True)
class EarlyGuardStep(RowStep):
    """Adds `instruction_guard` and its category, before the instruction is answered: see `Guard.early`."""

    part: Guard
    model: Model

    name = "guard-instruction"
    section = "guard"
    reads = ("instruction",)
    outcome_columns = ("instruction_guard_error",)

    @property
    def adds(self) -> pa.Schema:
        error = inner("instruction_guard_error", pa.string(), "Why there is no verdict on the instruction.")
        return pa.schema([*_fields("instruction"), error])

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model."""
        return {**_settings(self.part), "of": list(_EARLY)}

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", "transcript")

    @property
    def requests(self) -> tuple[Request, ...]:
        return _requests(_EARLY)

    def outcomes(self, columns: Mapping[str, Any]) -> list[str]:
        return judged_or_not(columns["instruction_guard_error"])

    def bind(self, tools: Tools) -> EarlyGuardJudge:
        return EarlyGuardJudge(self, _Asking(self.part, tools.transcript(self.model)))


@dataclass(frozen=True, slots=True)
class _Asking:
    """A guard, in its own template."""

    part: Guard
    transcript: Transcript

    async def verdicts(
        self, rows: pa.Table, at: Sequence[int], subjects: Sequence[GuardSubject], engine: Engine
    ) -> list[list[GuardVerdict]]:
        """The verdicts on each row at `at`, one for each of `subjects`. One request for each, all at once."""
        needed = ["instruction", *(_ANSWERS[subject] for subject in subjects if subject in _ANSWERS)]
        texts = rows.select(needed).take(pa.array(at, pa.int64())).to_pylist()
        judged = await asyncio.gather(
            *(self._judge(_turns(row, subject), engine) for row in texts for subject in subjects)
        )
        # The requests went row by row; here they are one list for each row again.
        count = len(subjects)
        return [judged[row * count : (row + 1) * count] for row in range(len(texts))]

    async def _judge(self, turns: Sequence[str], engine: Engine) -> GuardVerdict:
        try:
            prompt = self.transcript.ids(turns, verdict=True)
        except ChatFormatError as error:
            return GuardVerdict(None, error=str(error))
        # Greedy, so that a seed changes nothing.
        sampling = Sampling(
            max_tokens=self.part.max_tokens, seed=0, temperature=0.0, stop_ids=self.transcript.stop_ids
        )
        return GuardVerdict.read(await engine.complete(prompt, sampling))


@dataclass(frozen=True, slots=True)
class GuardJudge(RowWork["Engine"]):
    """Asks the guard about what is not judged yet, and puts all verdicts on a row together."""

    step: GuardStep
    asking: _Asking

    async def run(self, rows: pa.Table, engine: Engine) -> pa.Table:
        """One request for each message that is judged, all at once."""
        at, step = live(rows), self.step
        fresh = await self.asking.verdicts(rows, at, step.subjects, engine)
        early = [_earlier(rows, at, subject) for subject in step.earlier]
        order = (*step.earlier, *step.subjects)
        verdicts = [[*before, *now] for *before, now in zip(*early, fresh, strict=True)]
        overall = [together(row) for row in verdicts]
        columns: dict[str, list[Any]] = {
            "llama_guard": [verdict.label for verdict in overall],
            "guard_category": [joined(verdict) for verdict in overall],
            "guard_error": [errors(order, row) for row in verdicts],
        }
        for number, subject in enumerate(step.subjects):
            columns[f"{subject}_guard"] = [row[number].label for row in fresh]
            columns[f"{subject}_guard_category"] = [joined(row[number]) for row in fresh]
        return spread(rows, at, columns, step.adds)


@dataclass(frozen=True, slots=True)
class EarlyGuardJudge(RowWork["Engine"]):
    """Asks the guard about the instruction alone."""

    step: EarlyGuardStep
    asking: _Asking

    async def run(self, rows: pa.Table, engine: Engine) -> pa.Table:
        """One request a row, all at once."""
        at = live(rows)
        verdicts = [row[0] for row in await self.asking.verdicts(rows, at, _EARLY, engine)]
        columns: dict[str, list[Any]] = {
            "instruction_guard": [verdict.label for verdict in verdicts],
            "instruction_guard_category": [joined(verdict) for verdict in verdicts],
            "instruction_guard_error": [verdict.error for verdict in verdicts],
        }
        return spread(rows, at, columns, self.step.adds)


def _fields(subject: GuardSubject) -> tuple[pa.Field, ...]:
    """The columns of one message."""
    text = "chosen answer" if subject == "chosen" else subject
    return (
        column(f"{subject}_guard", pa.string(), f"The guard's verdict on the {text} alone."),
        column(f"{subject}_guard_category", pa.string(), f"What is unsafe in the {text}."),
    )


def _names(subject: GuardSubject) -> tuple[str, ...]:
    """The columns that a step before has filled for one message."""
    return (*(field.name for field in _fields(subject)), f"{subject}_guard_error")


def _settings(part: Guard) -> dict[str, Any]:
    # When it is judged changes no verdict.
    return part.model_dump(mode="json", exclude={"model", "early"})


def _requests(subjects: Sequence[GuardSubject]) -> tuple[Request, ...]:
    texts = {"instruction": lengths.INSTRUCTION}
    answered = lengths.INSTRUCTION + lengths.RESPONSE
    return tuple(
        Request(
            lengths.GUARD_TEMPLATE + texts.get(subject, answered),
            lengths.VERDICT,
            shared=lengths.GUARD_TEMPLATE,
        )
        for subject in subjects
    )


def _earlier(rows: pa.Table, at: Sequence[int], subject: GuardSubject) -> list[GuardVerdict]:
    """The verdicts on one message that a step before has got."""
    labels, categories, errors = (values_at(rows, name, at) for name in _names(subject))
    return [
        GuardVerdict(label, tuple(listed.split(",")) if listed else (), error)
        for label, listed, error in zip(labels, categories, errors, strict=True)
    ]


def _turns(row: Mapping[str, str], subject: GuardSubject) -> list[str]:
    """The conversation, up to the message that is judged: a template judges the last one."""
    return [row["instruction"], *([row[_ANSWERS[subject]]] if subject in _ANSWERS else [])]
