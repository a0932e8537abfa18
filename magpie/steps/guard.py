"""A guard says whether what was said is safe: Llama-Guard-style models, in their own chat template.

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
from magpie.steps.base import ModelUse, RowStep, RowWork, Tools, judged_or_not, live, spread

if TYPE_CHECKING:
    from magpie.chat import Transcript
    from magpie.engines.base import Engine

SAFE, UNSAFE = "safe", "unsafe"

_ANSWERS: Mapping[GuardSubject, str] = {"response": "response", "chosen": "chosen_response"}

_CATEGORY = r"[A-Z]{1,3}\d{1,3}"
_VERDICT = re.compile(rf"safe|unsafe(?:\s*\n\s*({_CATEGORY}(?:\s*,\s*{_CATEGORY})*))?")


@dataclass(frozen=True, slots=True)
class GuardVerdict:
    """What the guard said of one message: `label` is SAFE, UNSAFE or, where it said neither, null and `error`."""

    label: str | None
    categories: tuple[str, ...] = ()
    error: str | None = None

    @classmethod
    def read(cls, completion: Completion) -> GuardVerdict:
        """The verdict in what the guard wrote: exactly one, and nothing else."""
        if completion.finish_reason == "error":
            return cls(None, error=completion.error or "engine error")
        if completion.finish_reason != "stop":
            return cls(None, error="cut by length")
        found = _VERDICT.fullmatch(completion.text.strip())
        if found is None:
            return cls(None, error="not a verdict")
        named = re.split(r"\s*,\s*", found[1]) if found[1] else []
        return cls(SAFE if found[0] == SAFE else UNSAFE, tuple(dict.fromkeys(named)))


@dataclass(frozen=True, slots=True)
class GuardStep(RowStep):
    """Adds `llama_guard` and `guard_category`, and the same two for each of what is judged.

    `llama_guard` is "unsafe" where anything judged is, "safe" where all of it is, and null where that cannot be said.
    `guard_category` holds the categories, joined by commas; null where none is named. `guard_error` says which verdict
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
        """The columns for all that is judged, then those for each, such as `response_guard`."""
        names = ["llama_guard", "guard_category"]
        for subject in self.part.of:
            names += [f"{subject}_guard", f"{subject}_guard_category"]
        return pa.schema([(name, pa.string()) for name in (*names, "guard_error")])

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model."""
        return self.part.model_dump(mode="json", exclude={"model"})

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", "transcript")

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
        """One request for each row and each of what is judged, all at once."""
        at = live(rows)
        chosen = rows.take(pa.array(at, pa.int64()))
        texts = chosen.select(self.step.reads).to_pylist()
        of = self.step.part.of
        judged = await asyncio.gather(
            *(self._judge(_turns(row, subject), engine) for row in texts for subject in of)
        )
        verdicts = [judged[row * len(of) : (row + 1) * len(of)] for row in range(len(texts))]
        both = [_together(row) for row in verdicts]
        columns: dict[str, list[Any]] = {
            "llama_guard": [one.label for one in both],
            "guard_category": [_joined(one) for one in both],
            "guard_error": [_errors(of, row) for row in verdicts],
        }
        for place, subject in enumerate(of):
            columns[f"{subject}_guard"] = [row[place].label for row in verdicts]
            columns[f"{subject}_guard_category"] = [_joined(row[place]) for row in verdicts]
        return spread(rows, at, columns, self.step.adds)

    async def _judge(self, turns: Sequence[str], engine: Engine) -> GuardVerdict:
        try:
            prompt = self.transcript.ids(turns, verdict=True)
        except ChatFormatError as error:
            return GuardVerdict(None, error=str(error))
        sampling = Sampling(
            max_tokens=self.step.part.max_tokens, seed=0, temperature=0.0, stop_ids=self.transcript.stop_ids
        )
        return GuardVerdict.read(await engine.complete(prompt, sampling))


def _turns(row: Mapping[str, str], subject: GuardSubject) -> list[str]:
    """The conversation that ends in what is judged."""
    return [row["instruction"], *([row[_ANSWERS[subject]]] if subject in _ANSWERS else [])]


def _together(verdicts: Sequence[GuardVerdict]) -> GuardVerdict:
    labels = [one.label for one in verdicts]
    categories = tuple(dict.fromkeys(name for one in verdicts for name in one.categories))
    if UNSAFE in labels:
        return GuardVerdict(UNSAFE, categories)
    return GuardVerdict(None if None in labels else SAFE)


def _joined(verdict: GuardVerdict) -> str | None:
    return ",".join(verdict.categories) or None


def _errors(of: Sequence[GuardSubject], verdicts: Sequence[GuardVerdict]) -> str | None:
    return (
        "; ".join(f"{subject}: {one.error}" for subject, one in zip(of, verdicts, strict=True) if one.error)
        or None
    )
