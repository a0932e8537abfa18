"""A model writes instances of each task: inputs with their outputs, or for classification outputs with inputs.

Asked for an input first, a model gives most inputs of a classification task one label. So there a label comes first,
and the input that fits it follows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie.engines.base import Completion, Sampling
from magpie.recipe import Instances, Model, Recipe
from magpie.self_instruct.parsing import Draft, parse_instances
from magpie.self_instruct.prompts import INSTANCES_REQUEST, instances_page, instances_question
from magpie.self_instruct.tasks import digest_of, example_tasks
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
    text_bytes,
)

if TYPE_CHECKING:
    from magpie.engines.base import Engine

_DRAFT = pa.struct([("input", pa.string()), ("output", pa.string()), ("problem", pa.string())])


@dataclass(frozen=True, slots=True)
class InstancesStep(RowStep):
    """Adds `drafts`, the instances as they were written, and how they came about.

    Without the step `identify` no task counts as classification.
    """

    part: Instances
    seed: int
    model: Model
    identified: bool

    name = "instances"
    answers = True
    version = 2
    adds = pa.schema(
        [
            inner(
                "drafts",
                pa.list_(_DRAFT),
                "The instances as the model wrote them, and what is wrong with each.",
            ),
            column("instance_order", pa.string(), '"input first", or "output first" for classification.'),
            column("response_seed", pa.int64(), "The seed that the instances were drawn with."),
            counts_tokens("response_tokens", meaning="Tokens of all instances of the task."),
            inner(
                "instances_finish_reason", pa.string(), "How the instances ended, as response_finish_reason."
            ),
            inner("instances_error", pa.string(), "Why the engine gave none; null where it did."),
            REJECTED,
        ]
    )

    @classmethod
    def plan(cls, recipe: Recipe, columns: pa.Schema) -> tuple[InstancesStep, ...]:
        """The step: every task needs an instance."""
        part = recipe.instances
        assert part is not None
        return (cls(part, recipe.seed, recipe.model(part.model), recipe.identify is not None),)

    @property
    def reads(self) -> tuple[str, ...]:
        """The task, and whether it is classification."""
        return ("instruction", "is_classification") if self.identified else ("instruction",)

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model and the examples."""
        part = self.part.model_dump(mode="json", exclude={"model", "examples"})
        for heading in ("input_first_heading", "output_first_heading"):
            if part[heading] is None:  # as it was before there was the setting
                del part[heading]
        return {"seed": self.seed, **part, "identified": self.identified}

    def fingerprint(self, _: Tools) -> dict[str, Any]:
        headings = [instances_page((), output_first=first) for first in (False, True)]
        examples = digest_of(example_tasks(self.part.examples))
        return {**self.settings, "examples": examples, "page": [INSTANCES_REQUEST, *headings]}

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", self.part.speech)

    @property
    def requests(self) -> tuple[Request, ...]:
        page = len(instances_page(example_tasks(None), output_first=False)) / lengths.CHARACTERS / 2
        return (Request(page + lengths.INSTRUCTION, lengths.written(self.part.max_tokens), shared=page),)

    @property
    def bytes_per_row(self) -> int:
        return text_bytes(self.part.max_tokens)

    @property
    def outcome_columns(self) -> tuple[str, ...]:
        return ("instance_order",)

    def outcomes(self, columns: Any) -> list[str]:
        return [order or "none" for order in columns["instance_order"].to_pylist()]

    def bind(self, tools: Tools) -> InstanceWriter:
        tasks = example_tasks(self.part.examples)
        pages = {
            first: instances_page(
                [task for task in tasks if task.is_classification is first],
                output_first=first,
                heading=self.part.output_first_heading if first else self.part.input_first_heading,
            )
            for first in (False, True)
        }
        return InstanceWriter(self, Page.of(self.part.speech, self.model, tools), pages)


@dataclass(frozen=True, slots=True)
class InstanceWriter(AskingWork):
    """Writes the instances. `pages` are those to go on with, by whether the output comes first."""

    step: InstancesStep
    page: Page
    pages: dict[bool, str]

    def prompt_for(self, row: Row, engine: Engine) -> list[int]:
        output_first = _output_first(row)
        request = INSTANCES_REQUEST.format(count=self.step.part.most)
        question = instances_question(row["instruction"], output_first=output_first)
        return self.page.ids(request, self.pages[output_first] + question)

    def sampling_for(self, row: Row, seed: int, engine: Engine) -> Sampling:
        part = self.step.part
        stop = (*self.page.stop_texts, f"\nExample {part.most + 1}", "\nTask:")
        return drawn_by(part, seed, engine, stop_ids=self.page.stop_ids, stop=stop)

    def columns_from(self, row: Row, seed: int, completion: Completion) -> dict[str, Any]:
        output_first = _output_first(row)
        drafts = self._parsed(completion, output_first=output_first)
        missing = ENGINE_ERROR if completion.finish_reason == "error" else "none written"
        return {
            "drafts": [asdict(draft) for draft in drafts],
            "instance_order": f"{'output' if output_first else 'input'} first",
            "response_seed": seed,
            "response_tokens": completion.token_count,
            "instances_finish_reason": completion.finish_reason,
            "instances_error": completion.error,
            REJECTED.name: None if drafts else missing,
        }

    def _parsed(self, completion: Completion, *, output_first: bool) -> list[Draft]:
        if completion.finish_reason == "error":
            return []
        return parse_instances(
            self.page.without_end(completion.text),
            output_first=output_first,
            most=self.step.part.most,
            is_cut=completion.finish_reason != "stop",
        )


def _output_first(row: Row) -> bool:
    """Whether the task counts as classification."""
    return bool(row.get("is_classification"))
