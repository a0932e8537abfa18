"""An aligned model rewrites each task with its instances; what was written first stays beside it.

A base model's texts differ more from one another than an aligned model's, and are worse: one writes, and the other one
mends (BARE, arXiv 2502.01697).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie.engines.base import Completion, Sampling
from magpie.recipe import Recipe, Refine
from magpie.replies import json_object, valid_text
from magpie.self_instruct.forms import conversation
from magpie.self_instruct.parsing import Draft
from magpie.self_instruct.rules import screen_instances
from magpie.self_instruct.tasks import Instance
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import (
    BROKEN_OFF,
    NOT_JSON,
    REJECTED,
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
    object_schema,
    text_bytes,
)

if TYPE_CHECKING:
    from magpie.engines.base import Engine

_REWRITTEN = ("task", "task_input", "instances", "instruction", "response", "response_length")


@dataclass(frozen=True, slots=True)
class RefineStep(RowAsJsonStep):
    """Rewrites the task, its instances and so the conversation; adds `unrefined_task` and `unrefined_instances`.

    A row that the model gives nothing usable for is rejected, and keeps what it had. `columns` are the rewritten ones,
    as the step before added them.
    """

    part: Refine
    columns: tuple[pa.Field, ...]

    name = "refine"
    template = "refine.jinja"
    role = "refiner"
    work = "rewrite"
    answers = True
    reads = _REWRITTEN
    rewrites = _REWRITTEN
    version = 1

    @classmethod
    def plan(cls, recipe: Recipe, columns: pa.Schema) -> tuple[RefineStep, ...]:
        """The step, where the recipe asks."""
        part = recipe.refine
        if part is None:
            return ()
        rewritten = tuple(columns.field(name) for name in _REWRITTEN)
        return (cls(part, recipe.seed, answering_at_once(recipe, part.model), rewritten),)

    @property
    def adds(self) -> pa.Schema:
        """What was there before, how the new one came about, and the new one."""
        instances = next(field.type for field in self.columns if field.name == "instances")
        return pa.schema(
            [
                column("unrefined_task", pa.string(), "The task before an aligned model rewrote it."),
                column("unrefined_instances", instances, "Its instances before that."),
                column("refine_seed", pa.int64(), "The seed that the rewriting was drawn with."),
                counts_tokens("refine_tokens", meaning="Tokens of the rewriting."),
                inner("refine_error", pa.string(), "Why the engine gave none; null where it did."),
                *self.columns,
                REJECTED,
            ]
        )

    @property
    def credited_as(self) -> str:
        return "refiner"

    @property
    def requests(self) -> tuple[Request, ...]:
        row = lengths.INSTRUCTION + lengths.written(self.part.max_tokens)
        return (Request(self.page + row, row, shared=self.page),)

    @property
    def bytes_per_row(self) -> int:
        return 2 * text_bytes(self.part.max_tokens)

    def bind(self, tools: Tools) -> Refiner:
        return Refiner(self, self.quoting(tools))


@dataclass(frozen=True, slots=True)
class Refiner(AskingWork):
    """Rewrites rows, in the chat format of the aligned model."""

    step: RefineStep
    prompt: QuotingPrompt

    def prompt_for(self, row: Row, engine: Engine) -> list[int]:
        room = engine.model.context_length - self.step.part.max_tokens
        return self.prompt.ids(_spelled(row["task"], row["instances"]), room=room)

    def sampling_for(self, row: Row, seed: int, engine: Engine) -> Sampling:
        schema = _schema(len(row["instances"]))
        return drawn_by(self.step.part, seed, engine, stop_ids=self.prompt.chat.stop_ids, schema=schema)

    def columns_from(self, row: Row, seed: int, completion: Completion) -> dict[str, Any]:
        task, kept, reason = _read(completion, len(row["instances"]))
        return {
            # Without them the row keeps what was there.
            **({} if reason else conversation(task, kept)),
            "unrefined_task": row["task"],
            "unrefined_instances": row["instances"],
            "refine_seed": seed,
            "refine_tokens": completion.token_count,
            "refine_error": completion.error,
            REJECTED.name: reason,
        }


def _spelled(task: str, instances: Sequence[dict[str, str]]) -> str:
    return json.dumps({"task": task, "examples": instances}, ensure_ascii=False, indent=1)


def _schema(count: int) -> str:
    """A task with as many examples, as a JSON schema."""
    text = {"type": "string"}
    example = object_schema({"input": text, "output": text})
    examples = {"type": "array", "items": example, "minItems": count, "maxItems": count}
    return json.dumps(object_schema({"task": text, "examples": examples}))


def _read(completion: Completion, most: int) -> tuple[str, list[Instance], str | None]:
    """The task, its instances, and why the row is out; None where it is in."""
    if completion.finish_reason != "stop":
        return "", [], BROKEN_OFF[completion.finish_reason]
    answer = json_object(completion.text) or {}
    task, examples = answer.get("task"), answer.get("examples")
    if not isinstance(task, str) or not isinstance(examples, list):
        return "", [], NOT_JSON
    drafts = [Draft(_text(one, "input"), _text(one, "output")) for one in examples if isinstance(one, dict)]
    # By the rules that the first writing went through.
    kept, reasons = screen_instances(drafts, most=most)
    task = valid_text(task)[0].strip()
    if not task:
        return "", [], "no task"
    return task, kept, None if kept else reasons[0] if reasons else "no instance"


def _text(example: dict[str, Any], name: str) -> str:
    value = example.get(name)
    return valid_text(value)[0].strip() if isinstance(value, str) else ""
