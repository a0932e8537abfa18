"""The base model answers each instruction too, so that the reward of the response can be compared with its reward.

A base model has no chat template. Its prompt is a page of example questions and answers, followed by the instruction,
as in URIAL (arXiv 2312.01552). The reward of the response less the reward of this answer is the `reward_difference`
of arXiv 2406.08464.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie import shipped
from magpie.engines.base import Completion, Sampling
from magpie.recipe import Baseline, Model, Recipe
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import (
    AskingWork,
    ModelUse,
    Row,
    RowStep,
    Tools,
    column,
    counts_tokens,
    documents_in,
    drawn_by,
    first_message,
    text_bytes,
)

if TYPE_CHECKING:
    from magpie.chat import PlainText
    from magpie.engines.base import Engine

_PLACE = "{{ instruction }}"
# A base model has no token that ends a turn: it goes on with the next question of the page, in the tags of the page.
_STOPS = ("</answer>", "<question>", "</question>")


@dataclass(frozen=True, slots=True)
class BaselineStep(RowStep):
    """Adds `base_response`, which is null where the engine gave none."""

    part: Baseline
    seed: int
    model: Model
    documents: tuple[str, ...] = ()

    name = "baseline"
    section = "reward"
    adds = pa.schema(
        [
            column(
                "base_response", pa.string(), "What the base model answers, to compare the response with."
            ),
            counts_tokens("base_tokens", meaning="Tokens of the base model's answer."),
            column(
                "base_finish_reason",
                pa.string(),
                "How the base model's answer ended, as response_finish_reason.",
            ),
        ]
    )
    version = 1

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model, the page of examples included."""
        page = hashlib.sha256(_page().encode()).hexdigest()
        return {"seed": self.seed, **self.part.model_dump(mode="json", exclude={"model"}), "page": page}

    @classmethod
    def plan(cls, recipe: Recipe, columns: pa.Schema) -> tuple[BaselineStep, ...]:
        """The step, where rewards are compared with those of a base model."""
        part = recipe.reward and recipe.reward.baseline
        if not part:
            return ()
        return (cls(part, recipe.seed, recipe.model(part.model), documents_in(columns)),)

    @property
    def reads(self) -> tuple[str, ...]:
        """The instruction, and the document that it is about."""
        return ("instruction", *self.documents)

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", "plain")

    @property
    def requests(self) -> tuple[Request, ...]:
        page = len(_page()) / lengths.CHARACTERS
        output = lengths.written(self.part.max_tokens)
        return (Request(page + lengths.INSTRUCTION, output, shared=page),)

    @property
    def bytes_per_row(self) -> int:
        return text_bytes(self.part.max_tokens)

    def bind(self, tools: Tools) -> BaselineWriter:
        return BaselineWriter(self, tools.plain_text(self.model), _page())


@dataclass(frozen=True, slots=True)
class BaselineWriter(AskingWork):
    """Writes the base model's answers, in plain text."""

    step: BaselineStep
    plain: PlainText
    page: str

    def prompt_for(self, row: Row, engine: Engine) -> list[int]:
        before, _, after = self.page.partition(_PLACE)
        return self.plain.ids(f"{before}{first_message(row)}{after}")

    def sampling_for(self, row: Row, seed: int, engine: Engine) -> Sampling:
        # Base models repeat themselves often, and there is no setting: stop them wherever the engine can.
        stops = engine.model.stops_repetition(None)
        ends = self.plain.stop_ids
        return drawn_by(self.step.part, seed, engine, stop_ids=ends, stop=_STOPS, stop_repetition=stops)

    def columns_from(self, row: Row, seed: int, completion: Completion) -> dict[str, Any]:
        answer = self.plain.without_end(completion.text).strip()
        return {
            "base_response": None if completion.finish_reason == "error" else answer,
            "base_tokens": completion.token_count,
            "base_finish_reason": completion.finish_reason,
        }


def _page() -> str:
    """The shipped page of examples; _PLACE in it is where the instruction goes."""
    return shipped.text("templates/baseline", "examples.txt")
