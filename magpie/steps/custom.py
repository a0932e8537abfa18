"""A step of the user's own: a Python function that is called with one row after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from magpie.errors import RunError
from magpie.recipe import CustomStep, StepFacts
from magpie.steps.base import REJECTED, RowStep, RowWork, Tools, column, live, spread
from magpie.user_code import load, source_digest

_TYPES: Mapping[str, pa.DataType] = {
    "text": pa.string(),
    "number": pa.float64(),
    "whole": pa.int64(),
    "truth": pa.bool_(),
    "texts": pa.list_(pa.string()),
}


@dataclass(frozen=True, slots=True)
class UserStep(RowStep):
    """Adds what the function returns. The function is loaded by its work, and by nothing else: not to look at a run."""

    part: CustomStep
    facts: StepFacts

    section = "steps"

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.facts.name

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that the function asks for."""
        return self.facts.reads

    @property
    def adds(self) -> pa.Schema:
        """The columns that it says it adds."""
        fields = [
            column(name, _TYPES[of.type], of.meaning or f"By the step {self.name} of the recipe's own.")
            for name, of in self.facts.adds.items()
        ]
        return pa.schema([*fields, REJECTED] if self.facts.rejects else fields)

    @property
    def rewrites(self) -> tuple[str, ...]:
        """All that it adds: a column may be there already."""
        return tuple(self.facts.adds)

    @property
    def settings(self) -> dict[str, Any]:
        """What the function is given, what it says of itself, and a digest of its source."""
        return self.part.model_dump(mode="json", include={"settings", "facts"})

    def bind(self, tools: Tools) -> UserWork:
        return UserWork(self)


@dataclass(frozen=True, slots=True)
class UserWork(RowWork[None]):
    """Calls the function. It travels to other processes by its name, and is loaded there."""

    step: UserStep

    async def run(self, rows: pa.Table, _: None) -> pa.Table:
        """In a thread, so that an engine fed by the same event loop is not kept waiting. Raises RunError."""
        return await asyncio.to_thread(self._call, rows)

    def _call(self, rows: pa.Table) -> pa.Table:
        step = self.step
        function = load(step.part.use)
        if source_digest(function) != step.facts.source:
            raise RunError(
                f"the source of {step.name} changed while the build was at work; run the build again"
            )
        at = live(rows)
        names = ["id", "index", *step.reads]
        given = rows.select(names).take(pa.array(at, pa.int64())).to_pylist()
        returned = [self._one(function, row) for row in given]
        columns = {name: [one.get(name) for one in returned] for name in step.facts.adds}
        if step.facts.rejects:
            reasons = [one.get(REJECTED.name) for one in returned]
            columns[REJECTED.name] = [
                None if reason is None else f"{step.name}: {reason}" for reason in reasons
            ]
        try:
            return spread(rows, at, columns, step.adds)
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError) as error:
            raise RunError(
                f"the step {step.name} returned a value of another type than it says ({error}); mend it, or its `adds`"
            ) from error

    def _one(self, function: Any, row: dict[str, Any]) -> Mapping[str, Any]:
        try:
            returned = function(row, **self.step.part.settings)
        except Exception as error:
            raise RunError(
                f"the step {self.step.name} failed on row {row['id']} ({type(error).__name__}: {error}); "
                "mend it and run the build again"
            ) from error
        allowed = {*self.step.facts.adds, *([REJECTED.name] if self.step.facts.rejects else [])}
        if not isinstance(returned, Mapping) or not set(returned) <= allowed:
            raise RunError(
                f"the step {self.step.name} must return a dict with {', '.join(sorted(allowed))} and no other key; "
                "mend it"
            )
        return returned
