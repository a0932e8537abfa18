"""A model says of each task whether it is classification, after a page of seeds of which that is known."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie.engines.base import Completion, Sampling
from magpie.recipe import Identify, Model, Recipe
from magpie.self_instruct.prompts import KIND_REQUEST, kind_page, kind_question
from magpie.self_instruct.tasks import Task, digest_of, seed_tasks
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import (
    ENGINE_ERROR,
    REJECTED,
    AskingWork,
    ModelUse,
    Page,
    Row,
    RowStep,
    Tools,
    column,
    counts_tokens,
    drawn_by,
    inner,
)
from magpie.text import folded

if TYPE_CHECKING:
    from magpie.engines.base import Engine

_ANSWERS = json.dumps({"type": "string", "enum": ["yes", "no"]})
_ANSWER = re.compile(
    r"\W*(?:json)?\W*(yes|no)\W*"
)  # a judge may write it in a fence, in bold, with a full stop
_MOST_TOKENS = 16  # of either answer, in quotation marks


@dataclass(frozen=True, slots=True)
class IdentifyStep(RowStep):
    """Adds `is_classification`. `seeds` is the file that the page is drawn from."""

    part: Identify
    seeds: str | None
    seed: int
    model: Model

    name = "identify"
    reads = ("instruction",)
    version = 1
    adds = pa.schema(
        [
            column("is_classification", pa.bool_(), "Whether the answer to the task is one of a few labels."),
            counts_tokens("identify_tokens", meaning="Tokens of the answer whether it is."),
            inner("identify_error", pa.string(), "Why there is no answer; null where there is one."),
            REJECTED,
        ]
    )

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[IdentifyStep, ...]:
        """The step, where the recipe asks."""
        part, bootstrap = recipe.identify, recipe.bootstrap
        if part is None or bootstrap is None:
            return ()
        return (cls(part, bootstrap.seeds, recipe.seed, recipe.model(part.model)),)

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model and the seeds."""
        part = self.part.model_dump(mode="json", exclude={"model"})
        if self.part.heading is None:  # as it was before there was the setting
            del part["heading"]
        return {"seed": self.seed, **part}

    def fingerprint(self, _: Tools) -> dict[str, Any]:
        return {
            **self.settings,
            "seeds": digest_of(seed_tasks(self.seeds)),
            "page": [KIND_REQUEST, kind_page(())],
        }

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", self.part.speech, structured=True)

    @property
    def requests(self) -> tuple[Request, ...]:
        page = (self.part.yes_shots + self.part.no_shots) * lengths.INSTRUCTION
        return (Request(page + lengths.INSTRUCTION, 4, shared=page),)

    @property
    def bytes_per_row(self) -> int:
        return 4

    @property
    def outcome_columns(self) -> tuple[str, ...]:
        return ("is_classification",)

    def outcomes(self, columns: Any) -> list[str]:
        words = {True: "classification", False: "not classification", None: "no answer"}
        return [words[answer] for answer in columns["is_classification"].to_pylist()]

    def bind(self, tools: Tools) -> Identifier:
        page = kind_page(shots_of(seed_tasks(self.seeds), self.part, self.seed), self.part.heading)
        return Identifier(self, Page.of(self.part.speech, self.model, tools), page)


def shots_of(tasks: tuple[Task, ...], part: Identify, run_seed: int) -> list[Task]:
    """The tasks of the page, drawn by the run's seed: as many of each kind as the recipe says, or as there are."""
    draw = random.Random(f"{run_seed}/identify")
    shots: list[Task] = []
    for kind, wanted in ((True, part.yes_shots), (False, part.no_shots)):
        known = [task for task in tasks if task.is_classification is kind]
        shots += draw.sample(known, min(wanted, len(known)))
    draw.shuffle(shots)
    return shots


@dataclass(frozen=True, slots=True)
class Identifier(AskingWork):
    """Asks about every task. The page is the same for all of them, so that a prefix cache has it."""

    step: IdentifyStep
    page: Page
    shots: str

    def prompt_for(self, row: Row, engine: Engine) -> list[int]:
        return self.page.ids(KIND_REQUEST, self.shots + kind_question(row["instruction"]))

    def sampling_for(self, row: Row, seed: int, engine: Engine) -> Sampling:
        part, stop_ids = self.step.part, self.page.stop_ids
        return drawn_by(part, seed, engine, max_tokens=_MOST_TOKENS, stop_ids=stop_ids, schema=_ANSWERS)

    def columns_from(self, row: Row, seed: int, completion: Completion) -> dict[str, Any]:
        answer, error = _answer(completion)
        missing = ENGINE_ERROR if completion.finish_reason == "error" else "no answer"
        return {
            "is_classification": answer,
            "identify_tokens": completion.token_count,
            "identify_error": error,
            REJECTED.name: missing if answer is None else None,
        }


def _answer(completion: Completion) -> tuple[bool | None, str | None]:
    """Yes or no, or None and why."""
    if completion.finish_reason == "error":
        return None, completion.error
    answer = _ANSWER.fullmatch(folded(completion.text))
    return (answer[1] == "yes", None) if answer else (None, f"answered {completion.text[:60]!r}")
