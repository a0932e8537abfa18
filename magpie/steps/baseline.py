"""The base model answers too: what the instruction was worth before the generator was aligned.

A base model has no chat template. It is shown a page of questions and answers of our own and goes on with the answer to
the instruction, in the manner of URIAL (arXiv 2312.01552). The reward of the response over that of this answer is the
`reward_difference` of arXiv 2406.08464.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie import shipped
from magpie.engines.base import Sampling
from magpie.recipe import Baseline, Model, Recipe
from magpie.steps.base import ModelUse, RowStep, RowWork, Tools, counts_tokens, live, seeds, spread

if TYPE_CHECKING:
    from magpie.chat import PlainText
    from magpie.engines.base import Engine

_PLACE = "{{ instruction }}"
_STOPS = ("</answer>", "<question>", "</question>")


@dataclass(frozen=True, slots=True)
class BaselineStep(RowStep):
    """Adds `base_response`, which is null where the engine gave none."""

    part: Baseline
    seed: int
    model: Model

    name = "baseline"
    section = "reward"
    reads = ("instruction",)
    adds = pa.schema(
        [
            ("base_response", pa.string()),
            counts_tokens("base_tokens"),
            ("base_finish_reason", pa.string()),
        ]
    )
    version = 1

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model, the page included."""
        page = hashlib.sha256(_page().encode()).hexdigest()
        return {"seed": self.seed, **self.part.model_dump(mode="json", exclude={"model"}), "page": page}

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[BaselineStep, ...]:
        """The step, where rewards are compared with those of a base model."""
        part = recipe.reward and recipe.reward.baseline
        return (cls(part, recipe.seed, recipe.model(part.model)),) if part else ()

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", "plain")

    @property
    def bytes_per_row(self) -> int:
        return min(1600, 3 * self.part.max_tokens)

    def bind(self, tools: Tools) -> BaselineWriter:
        return BaselineWriter(self, tools.plain_text(self.model))


@dataclass(frozen=True, slots=True)
class BaselineWriter(RowWork["Engine"]):
    """Writes the base model's answers, in plain text."""

    step: BaselineStep
    plain: PlainText

    async def run(self, rows: pa.Table, engine: Engine) -> pa.Table:
        """One request a row, all at once."""
        at, part = live(rows), self.step.part
        row_seeds = seeds(self.step.seed, "baseline", rows["index"].to_numpy()[at]).tolist()
        instructions = rows["instruction"].take(pa.array(at, pa.int64())).to_pylist()
        before, _, after = _page().partition(_PLACE)
        stop_repetition = engine.model.stops_repetition(None)
        completions = await asyncio.gather(
            *(
                engine.complete(
                    self.plain.ids(f"{before}{instruction}{after}"),
                    Sampling(
                        max_tokens=part.max_tokens,
                        seed=seed,
                        temperature=part.temperature,
                        stop_ids=self.plain.stop_ids,
                        stop=_STOPS,
                        stop_repetition=stop_repetition,
                    ),
                )
                for instruction, seed in zip(instructions, row_seeds, strict=True)
            )
        )
        columns: dict[str, list[Any]] = {
            "base_response": [
                None if done.finish_reason == "error" else done.text.strip() for done in completions
            ],
            "base_tokens": [done.token_count for done in completions],
            "base_finish_reason": [done.finish_reason for done in completions],
        }
        return spread(rows, at, columns, self.step.adds)


def _page() -> str:
    return (shipped.folder("templates/baseline") / "examples.txt").read_text(encoding="utf-8")
