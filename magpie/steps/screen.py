"""The rules about instances: which of them stay, and which tasks are left with none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from magpie.recipe import Recipe
from magpie.self_instruct.forms import conversation
from magpie.self_instruct.parsing import Draft
from magpie.self_instruct.rules import screen_instances
from magpie.steps.base import (
    REJECTED,
    RowStep,
    RowWork,
    Tools,
    by_column,
    column,
    inner,
    live,
    spread,
    values_at,
)

_INSTANCE = pa.struct([("input", pa.string()), ("output", pa.string())])


@dataclass(frozen=True, slots=True)
class ScreenStep(RowStep, RowWork[None]):
    """Adds the instances that are kept, and makes a conversation of the first: the task with its input, and its output.

    The instruction is the whole message from here on, as everywhere; `task` and `task_input` are its two parts.
    """

    most: int

    name = "screen"
    reads = ("instruction", "drafts")
    version = 1
    rewrites = ("instruction",)
    adds = pa.schema(
        [
            column("task", pa.string(), "The task, without an input."),
            column(
                "task_input", pa.string(), "The input of the first instance; empty where the task needs none."
            ),
            column("instances", pa.list_(_INSTANCE), "All instances of the task, the first included."),
            inner(
                "dropped_instances", pa.list_(pa.string()), "Why other instances were dropped, a reason each."
            ),
            column(
                "instruction",
                pa.string(),
                "The user's message: the task and its input.",
                published="instruction",
            ),
            column("response", pa.string(), "The output of the first instance.", published="response"),
            column("response_length", pa.int32(), "Characters of the response.", published="response_length"),
            column("response_finish_reason", pa.string(), '"stop": no instance that was cut is kept.'),
            REJECTED,
        ]
    )

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[ScreenStep, ...]:
        """The step: every recipe of the method screens."""
        assert recipe.instances is not None
        return (cls(recipe.instances.most),)

    @property
    def settings(self) -> dict[str, Any]:
        """How many instances stay."""
        return {"most": self.most}

    @property
    def bytes_per_row(self) -> int:
        return 400

    @property
    def outcome_columns(self) -> tuple[str, ...]:
        return ("instances",)

    def outcomes(self, columns: Any) -> list[str]:
        counts = [len(each or ()) for each in columns["instances"].to_pylist()]
        return ["no instance" if not each else f"{each} instance{'s' * (each > 1)}" for each in counts]

    def bind(self, _: Tools) -> ScreenStep:
        return self

    async def run(self, rows: pa.Table, _: None) -> pa.Table:
        """Screens in a thread, so that an engine fed by the same event loop is not kept waiting."""
        return await asyncio.to_thread(self._screen, rows)

    def _screen(self, rows: pa.Table) -> pa.Table:
        at = live(rows)
        tasks = values_at(rows, "instruction", at)
        drafts = values_at(rows, "drafts", at)
        made = [self._screened(*row) for row in zip(tasks, drafts, strict=True)]
        return spread(rows, at, by_column(made, self.adds), self.adds, rewritten=self.rewrites)

    def _screened(self, task: str, drafts: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
        kept, reasons = screen_instances([Draft(**draft) for draft in drafts or ()], most=self.most)
        return {
            **conversation(task, kept),
            "dropped_instances": reasons,
            "response_finish_reason": "stop" if kept else None,
            "rejected": None if kept else f"{self.name}: {reasons[0] if reasons else 'no instance'}",
        }
