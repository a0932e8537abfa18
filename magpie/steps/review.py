"""A judge answers the questions of the paper's review: is the task valid, does the input fit, is the output right?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie.engines.base import Completion, Sampling
from magpie.recipe import Recipe, Review
from magpie.replies import json_object, valid_text
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import (
    AskingWork,
    QuotingPrompt,
    Row,
    RowAsJsonStep,
    Tools,
    answering_at_once,
    column,
    counts_tokens,
    drawn_by,
    inner,
    live,
    object_schema,
    seeds,
    why_no_answer,
)
from magpie.text import folded

if TYPE_CHECKING:
    from magpie.engines.base import Engine

QUESTIONS = ("valid_task", "input_fits", "output_right")
_ANSWERS = {"yes": True, "no": False}
_DRAWN = 1 << 31  # seeds are below this


@dataclass(frozen=True, slots=True)
class ReviewStep(RowAsJsonStep):
    """Adds an answer to each of the three questions; null in rows that were not drawn, or got no answer.

    No row is rejected: `review_error` says why there is no answer.
    """

    part: Review

    name = "review"
    template = "review.jinja"
    role = "judge"
    work = "judge"
    reads = ("task", "task_input", "response")
    version = 1
    outcome_columns = (*QUESTIONS, "review_error")

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[ReviewStep, ...]:
        """The step, where the recipe asks."""
        part = recipe.review
        if part is None:
            return ()
        return (cls(part, recipe.seed, answering_at_once(recipe, part.model)),)

    @property
    def adds(self) -> pa.Schema:
        """The answers, the judge's reason where it is asked for one, and how they came about."""
        reason = column("review_explanation", pa.string(), "Why the judge answers so.")
        return pa.schema(
            [
                column(QUESTIONS[0], pa.bool_(), "Whether the judge finds the task a valid one."),
                column(QUESTIONS[1], pa.bool_(), "Whether the first instance's input fits the task."),
                column(QUESTIONS[2], pa.bool_(), "Whether its output is right for the task and the input."),
                *([reason] if self.part.max_text_length else []),
                counts_tokens("review_tokens", meaning="Tokens that the judge wrote about the row."),
                inner("review_error", pa.string(), "Why there is no answer; null where there is one."),
            ]
        )

    @property
    def credited_as(self) -> str:
        return "reviewer"

    @property
    def requests(self) -> tuple[Request, ...]:
        row = lengths.INSTRUCTION + lengths.RESPONSE
        written = 20 + self.part.max_text_length / lengths.CHARACTERS
        return (Request(self.page + row, written, count=self.part.share, shared=self.page),)

    @property
    def bytes_per_row(self) -> int:
        return 4 + self.part.max_text_length // 2

    def outcomes(self, columns: Mapping[str, Any]) -> list[str]:
        """All three, not all, no answer, or not reviewed."""
        answers = zip(*(columns[name].to_pylist() for name in QUESTIONS), strict=True)
        errors = columns["review_error"].to_pylist()
        return [
            ("no answer" if error else "not reviewed")
            if None in row
            else ("all three" if all(row) else "not all three")
            for row, error in zip(answers, errors, strict=True)
        ]

    def bind(self, tools: Tools) -> Reviewer:
        return Reviewer(self, self.quoting(tools, reasons=bool(self.part.max_text_length)))


@dataclass(frozen=True, slots=True)
class Reviewer(AskingWork):
    """Asks about the rows that are drawn."""

    step: ReviewStep
    prompt: QuotingPrompt

    def asked(self, rows: pa.Table) -> list[int]:
        at, step = live(rows), self.step
        draws = seeds(step.seed, f"{step.name}/drawn", rows["index"].to_numpy()[at])
        drawn = draws < step.part.share * _DRAWN
        return [place for place, is_drawn in zip(at, drawn.tolist(), strict=True) if is_drawn]

    def prompt_for(self, row: Row, engine: Engine) -> list[int]:
        room = engine.model.context_length - self.step.part.max_tokens
        return self.prompt.ids(_spelled(*(row[name] for name in self.step.reads)), room=room)

    def sampling_for(self, row: Row, seed: int, engine: Engine) -> Sampling:
        schema = _schema(self.step.part.max_text_length)
        return drawn_by(self.step.part, seed, engine, stop_ids=self.prompt.chat.stop_ids, schema=schema)

    def columns_from(self, row: Row, seed: int, completion: Completion) -> dict[str, Any]:
        return {"review_tokens": completion.token_count, **_read(completion)}


def _spelled(task: str, input: str, output: str) -> str:
    return json.dumps({"task": task, "input": input, "output": output}, ensure_ascii=False, indent=1)


def _schema(max_text_length: int) -> str:
    # The reason first, so that the judge writes it before it decides.
    reason = {"why": {"type": "string", "maxLength": max_text_length}} if max_text_length else {}
    answers = {name: {"type": "string", "enum": list(_ANSWERS)} for name in QUESTIONS}
    return json.dumps(object_schema(reason | answers))


def _read(completion: Completion) -> dict[str, Any]:
    """The columns of one answer, or of one that is none."""
    answer = {} if completion.finish_reason == "error" else json_object(completion.text) or {}
    said = {name: _ANSWERS.get(folded(str(answer.get(name))).strip()) for name in QUESTIONS}
    if None in said.values():
        return {"review_error": why_no_answer(completion)}
    why = answer.get("why")
    return said | {"review_explanation": valid_text(why)[0].strip() if isinstance(why, str) else None}
