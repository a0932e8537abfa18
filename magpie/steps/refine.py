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

from magpie import shipped
from magpie.engines.base import Completion, Sampling
from magpie.recipe import Model, Recipe, Refine
from magpie.replies import json_object, valid_text
from magpie.self_instruct.forms import conversations
from magpie.self_instruct.parsing import Draft
from magpie.self_instruct.rules import screen_instances
from magpie.self_instruct.tasks import Instance
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import (
    REJECTED,
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
    text_bytes,
    values_at,
)

if TYPE_CHECKING:
    from magpie.engines.base import Engine

_REWRITTEN = ("task", "task_input", "instances", "instruction", "response", "response_length")
_BROKEN_OFF = {"error": "engine error", "length": "cut by length", "repetition": "repeats itself"}


@dataclass(frozen=True, slots=True)
class RefineStep(RowStep):
    """Rewrites the task, its instances and so the conversation; adds `unrefined_task` and `unrefined_instances`.

    A row that the model gives nothing usable for is rejected, and keeps what it had. `columns` are the rewritten ones,
    as the step before added them.
    """

    part: Refine
    seed: int
    model: Model
    columns: tuple[pa.Field, ...]

    name = "refine"
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
        # The answer is JSON from its first token on: there is no place for reasoning before it.
        model = recipe.model(part.model).model_copy(update={"thinking": "off"})
        return (cls(part, recipe.seed, model, tuple(columns.field(name) for name in _REWRITTEN)),)

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
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model, the wording of the prompt included."""
        part = self.part.model_dump(mode="json", exclude={"model"})
        return {"seed": self.seed, **part, "prompt": _template()}

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", "chat", structured=True)

    @property
    def credited_as(self) -> str:
        return "refiner"

    @property
    def requests(self) -> tuple[Request, ...]:
        page = len(_template()) / lengths.CHARACTERS
        row = lengths.INSTRUCTION + lengths.written(self.part.max_tokens)
        return (Request(page + row, row, shared=page),)

    @property
    def bytes_per_row(self) -> int:
        return 2 * text_bytes(self.part.max_tokens)

    def bind(self, tools: Tools) -> Refiner:
        chat = tools.chat(self.model)
        return Refiner(self, QuotingPrompt.of(_template(), "row", chat))


@dataclass(frozen=True, slots=True)
class Refiner(RowWork["Engine"]):
    """Rewrites rows, in the chat format of the aligned model."""

    step: RefineStep
    prompt: QuotingPrompt

    async def run(self, rows: pa.Table, engine: Engine) -> pa.Table:
        """One request a row, all at once."""
        at = live(rows)
        tasks, earlier = values_at(rows, "task", at), values_at(rows, "instances", at)
        row_seeds = seeds(self.step.seed, self.step.name, rows["index"].to_numpy()[at]).tolist()
        room = engine.model.context_length - self.step.part.max_tokens
        completions = await complete_each(
            engine,
            (
                self.prompt.ids(_spelled(task, own), room=room)
                for task, own in zip(tasks, earlier, strict=True)
            ),
            (self._sampling(len(own), seed, engine) for own, seed in zip(earlier, row_seeds, strict=True)),
        )
        read = [_read(one, len(own)) for one, own in zip(completions, earlier, strict=True)]
        made = conversations([task for task, _, _ in read], [kept for _, kept, _ in read])
        reasons = [reason for _, _, reason in read]
        columns: dict[str, list[Any]] = {
            **{
                # None keeps what was there.
                name: [
                    value if reason is None else None for value, reason in zip(values, reasons, strict=True)
                ]
                for name, values in made.items()
            },
            "unrefined_task": tasks,
            "unrefined_instances": earlier,
            "refine_seed": row_seeds,
            "refine_tokens": [one.token_count for one in completions],
            "refine_error": [one.error for one in completions],
            REJECTED.name: [reason and f"{self.step.name}: {reason}" for reason in reasons],
        }
        return spread(rows, at, columns, self.step.adds, rewritten=self.step.rewrites)

    def _sampling(self, count: int, seed: int, engine: Engine) -> Sampling:
        part = self.step.part
        return Sampling(
            max_tokens=part.max_tokens,
            seed=seed,
            temperature=part.temperature,
            top_p=part.top_p,
            stop_ids=self.prompt.chat.stop_ids,
            stop_repetition=engine.model.stops_repetition(part.stop_repetition),
            schema=_schema(count),
        )


def _template() -> str:
    return shipped.text("templates/self_instruct", "refine.jinja").strip()


def _spelled(task: str, instances: Sequence[dict[str, str]]) -> str:
    return json.dumps({"task": task, "examples": instances}, ensure_ascii=False, indent=1)


def _schema(count: int) -> str:
    """A task with as many examples, as a JSON schema."""
    text = {"type": "string"}
    example = {
        "type": "object",
        "properties": {"input": text, "output": text},
        "required": ["input", "output"],
        "additionalProperties": False,
    }
    examples = {"type": "array", "items": example, "minItems": count, "maxItems": count}
    return json.dumps(
        {
            "type": "object",
            "properties": {"task": text, "examples": examples},
            "required": ["task", "examples"],
            "additionalProperties": False,
        }
    )


def _read(completion: Completion, most: int) -> tuple[str, list[Instance], str | None]:
    """The task, its instances, and why the row is out; None where it is in."""
    if completion.finish_reason != "stop":
        return "", [], _BROKEN_OFF[completion.finish_reason]
    answer = json_object(completion.text) or {}
    task, examples = answer.get("task"), answer.get("examples")
    if not isinstance(task, str) or not isinstance(examples, list):
        return "", [], "not the JSON asked for"
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
