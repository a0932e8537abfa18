"""Which rows are kept: rules over the columns of a run, then quotas, then a top, all written in DuckDB's SQL.

Rules that read only columns known before the answers come first, in their order, then the others. This is so whether or
not they are pushed down, so that a row is rejected for the same reason either way. A rule is evaluated only on the rows
that passed the rules before it. A row fails a rule whose value is null.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from magpie.errors import StoppedError
from magpie.neighbors.vectors import ProgressCallback
from magpie.recipe import Filter, Recipe, Rule
from magpie.steps.base import REJECTED, GlobalStep, GlobalWork, RowStep, RowWork, Step, Tools
from magpie.steps.filter.decide import (
    Decision,
    FunnelLine,
    QuotaGroup,
    apply_rules,
    decide,
    funnel,
    funnel_lines,
    is_reason_of_filter,
    lost_alone,
    quota_groups,
    reason_of,
    values_of_no_row,
)
from magpie.steps.filter.limits import stopped_by
from magpie.steps.filter.rules import applicable, check, columns_of, expressions, split

__all__ = [
    "FilterStep",
    "FunnelLine",
    "PrefilterStep",
    "QuotaGroup",
    "applicable",
    "around_answers",
    "check",
    "decide",
    "expressions",
    "funnel",
    "funnel_lines",
    "is_reason_of_filter",
    "lost_alone",
    "quota_groups",
    "reason_of",
    "split",
    "values_of_no_row",
]


def around_answers(
    recipe: Recipe, known: pa.Schema, answers: Sequence[Step]
) -> tuple[PrefilterStep | None, FilterStep | None]:
    """The filter of a recipe on both sides of the steps that answer: what needs no answer comes before them.

    `known` are the columns before the answers. There is no filter before them where every row is to be answered, or no
    step writes an answer. Raises FilterError.
    """
    if recipe.filter is None:
        return None, None
    # Rules are checked on all columns, before any step runs: one that cannot be evaluated must not fail after hours.
    fields = {field.name: field for field in (*known, *(field for step in answers for field in step.adds))}
    columns = pa.schema(list(fields.values()))
    filter, skipped = applicable(recipe.filter, columns)
    check(filter, columns)
    rewritten = {name for step in answers for name in step.rewrites}
    early, late = split(filter, [name for name in known.names if name not in rewritten])
    is_answered = any(step.answers for step in answers)
    answers_every_row = any(step.answers_every_row for step in answers)
    if is_answered and not answers_every_row and early:
        return PrefilterStep(early), FilterStep(filter, late, skipped)
    return None, FilterStep(filter, (*early, *late), skipped)


@dataclass(frozen=True, slots=True)
class PrefilterStep(RowStep, RowWork[None]):
    """The rules that need no response, applied before one is paid for."""

    rules: tuple[Rule, ...]

    name = "prefilter"
    section = "filter"
    bytes_per_row = 2
    adds = pa.schema([REJECTED])

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of the rules."""
        return columns_of(rule.where for rule in self.rules)

    @property
    def settings(self) -> dict[str, Any]:
        """The rules."""
        return {"rules": [[rule.name, rule.where] for rule in self.rules]}

    def bind(self, _: Tools) -> PrefilterStep:
        return self

    async def run(self, rows: pa.Table, _: None) -> pa.Table:
        """Rejects each row that fails a rule, by the first that it fails."""
        is_over = threading.Event()

        def decided() -> pa.Table:
            decision = Decision.of(rows)
            with stopped_by(lambda: _raise_if(is_over)):
                apply_rules(self.rules, rows, decision)
            return decision.table(rows)

        try:
            return await asyncio.to_thread(decided)
        finally:
            is_over.set()


@dataclass(frozen=True, slots=True)
class FilterStep(GlobalStep, GlobalWork):
    """`rules`, then the quotas and the top of `filter`, over every row of the run.

    `rules` are those still to be applied: all of the filter's, early ones first, or what push-down left of them.
    """

    filter: Filter
    rules: tuple[Rule, ...]
    skipped_rules: tuple[str, ...] = ()

    name = "filter"
    bytes_per_row = 2
    adds = pa.schema([REJECTED])

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of the rules, the quotas and the top."""
        rest = self.filter.model_copy(update={"rules": self.rules})
        return columns_of(expression for _, expression in expressions(rest))

    @property
    def settings(self) -> dict[str, Any]:
        """The rules, the quotas and the top; the filter's name and description change no row."""
        rest = self.filter.model_dump(mode="json", include={"quotas", "top"})
        if rest["quotas"] is not None and rest["quotas"]["order"] is None:
            del rest["quotas"]["order"]  # as runs were made before there was an order of their own
        return {"rules": [[rule.name, rule.where] for rule in self.rules], **rest}

    def bind(self, _: Tools) -> FilterStep:
        return self

    def run_all(self, rows: pa.Table, on_progress: ProgressCallback) -> pa.Table:
        """Rejects each row that fails a rule, exceeds a quota or does not reach the top."""
        with stopped_by(lambda: on_progress("applying rules", 0, 1)):
            return decide(self.filter, self.rules, rows).table(rows)


def _raise_if(is_over: threading.Event) -> None:
    if is_over.is_set():
        raise StoppedError("the build was stopped")
