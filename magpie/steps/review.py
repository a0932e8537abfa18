"""A judge answers the questions of the paper's review: is the task valid, does the input fit, is the output right?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from magpie import shipped
from magpie.engines.base import Completion, Sampling
from magpie.errors import ChatFormatError
from magpie.recipe import Model, Recipe, Review
from magpie.replies import json_object, valid_text
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import (
    ModelUse,
    QuotingPrompt,
    RowStep,
    RowWork,
    Tools,
    column,
    complete_each,
    counts_tokens,
    inner,
    live,
    seeds,
    spread,
    values_at,
)
from magpie.text import folded

if TYPE_CHECKING:
    from magpie.engines.base import Engine

QUESTIONS = ("valid_task", "input_fits", "output_right")
_ANSWERS = {"yes": True, "no": False}
_DRAWN = 1 << 31  # seeds are below this


@dataclass(frozen=True, slots=True)
class ReviewStep(RowStep):
    """Adds an answer to each of the three questions; null in rows that were not drawn, or got no answer.

    No row is rejected: `review_error` says why there is no answer.
    """

    part: Review
    seed: int
    model: Model

    name = "review"
    reads = ("task", "task_input", "response")
    version = 1
    outcome_columns = (*QUESTIONS, "review_error")

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[ReviewStep, ...]:
        """The step, where the recipe asks."""
        part = recipe.review
        if part is None:
            return ()
        # The answer is JSON from its first token on: there is no place for reasoning before it.
        return (cls(part, recipe.seed, recipe.model(part.model).model_copy(update={"thinking": "off"})),)

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
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model, the wording of the prompt included."""
        part = self.part.model_dump(mode="json", exclude={"model"})
        return {"seed": self.seed, **part, "prompt": _template()}

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", "chat", structured=True)

    @property
    def credited_as(self) -> str:
        return "reviewer"

    @property
    def requests(self) -> tuple[Request, ...]:
        page = len(_template()) / lengths.CHARACTERS
        row = lengths.INSTRUCTION + lengths.RESPONSE
        written = 20 + self.part.max_text_length / lengths.CHARACTERS
        return (Request(page + row, written, count=self.part.share, shared=page),)

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
        try:
            chat = tools.chat(self.model)
        except ChatFormatError as error:
            raise ChatFormatError(f"`review.model`: {error}") from error
        prompt = QuotingPrompt.of(_template(), "row", chat, reasons=bool(self.part.max_text_length))
        return Reviewer(self, prompt)


@dataclass(frozen=True, slots=True)
class Reviewer(RowWork["Engine"]):
    """Asks about the rows that are drawn."""

    step: ReviewStep
    prompt: QuotingPrompt

    async def run(self, rows: pa.Table, engine: Engine) -> pa.Table:
        """One request a row, all at once."""
        at, part, name = live(rows), self.step.part, self.step.name
        index = rows["index"].to_numpy()[at]
        drawn = seeds(self.step.seed, f"{name}/drawn", index) < part.share * _DRAWN
        places = np.flatnonzero(drawn).tolist()
        texts = zip(*(values_at(rows, each, at) for each in self.step.reads), strict=True)
        spelled = [_spelled(*row) for row in texts]
        room = engine.model.context_length - part.max_tokens
        row_seeds = seeds(self.step.seed, name, index).tolist()
        completions = await complete_each(
            engine,
            (self.prompt.ids(spelled[place], room=room) for place in places),
            (self._sampling(row_seeds[place]) for place in places),
        )
        answers: list[dict[str, Any]] = [{} for _ in at]
        for place, completion in zip(places, completions, strict=True):
            answers[place] = _read(completion)
        columns = {each: [answer.get(each) for answer in answers] for each in self.step.adds.names}
        return spread(rows, at, columns, self.step.adds)

    def _sampling(self, seed: int) -> Sampling:
        part = self.step.part
        return Sampling(
            max_tokens=part.max_tokens,
            seed=seed,
            temperature=part.temperature,
            stop_ids=self.prompt.chat.stop_ids,
            schema=_schema(part.max_text_length),
        )


def _template() -> str:
    return shipped.text("templates/self_instruct", "review.jinja").strip()


def _spelled(task: str, input: str, output: str) -> str:
    return json.dumps({"task": task, "input": input, "output": output}, ensure_ascii=False, indent=1)


def _schema(max_text_length: int) -> str:
    # The reason first, so that the judge writes it before it decides.
    reason = {"why": {"type": "string", "maxLength": max_text_length}} if max_text_length else {}
    properties = reason | {name: {"type": "string", "enum": list(_ANSWERS)} for name in QUESTIONS}
    return json.dumps(
        {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    )


def _read(completion: Completion) -> dict[str, Any]:
    """The columns of one answer, or of one that is none."""
    found: dict[str, Any] = {"review_tokens": completion.token_count}
    if completion.finish_reason == "error":
        return found | {"review_error": completion.error or "engine error"}
    answer = json_object(completion.text) or {}
    said = {name: _ANSWERS.get(folded(str(answer.get(name))).strip()) for name in QUESTIONS}
    if None in said.values():
        cut = completion.finish_reason == "length"
        return found | {"review_error": "cut by length" if cut else "not the JSON asked for"}
    why = answer.get("why")
    return found | said | {"review_explanation": valid_text(why)[0].strip() if isinstance(why, str) else None}
