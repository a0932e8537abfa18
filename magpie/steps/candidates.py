"""The generator answers each instruction several times over, so that the better answers can be told from the worse."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from magpie.engines.base import Completion, Sampling
from magpie.recipe import Model, Prefer, Recipe
from magpie.steps.base import (
    ModelUse,
    RowStep,
    RowWork,
    Tools,
    counts_tokens,
    inner,
    live,
    seeds,
    spread,
    try_system_prompt,
)

if TYPE_CHECKING:
    from magpie.chat import ChatFormat
    from magpie.engines.base import Engine


@dataclass(frozen=True, slots=True)
class CandidatesStep(RowStep):
    """Adds `candidates`, the answers to the instruction in the order of their seeds, and how each came about.

    Every list is as long as `prefer.responses`. What is no answer is null among the candidates: one that failed, that
    is empty or repeats itself; `candidate_finish_reasons` tells which. One that was cut by length is kept.
    `candidate_reasoning` is what the model reasoned before each, or null; `candidate_tokens` counts both.
    """

    part: Prefer
    seed: int
    model: Model

    name = "candidates"
    section = "prefer"
    answers = True
    reads = ("instruction",)
    version = 1
    adds = pa.schema(
        [
            inner("candidates", pa.list_(pa.string())),
            inner("candidate_reasoning", pa.list_(pa.string())),
            counts_tokens("candidate_tokens", pa.list_(pa.int32())),
            inner("candidate_seeds", pa.list_(pa.int64())),
            inner("candidate_finish_reasons", pa.list_(pa.string())),
        ]
    )

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the answers besides the model; which of them are chosen is the affair of `prefer`."""
        return {"seed": self.seed, **self.part.model_dump(mode="json", exclude={"model", "reward", "margin"})}

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[CandidatesStep, ...]:
        """The step, where the recipe makes pairs."""
        part = recipe.prefer
        return () if part is None else (cls(part, recipe.seed, recipe.model(part.model)),)

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", "chat")

    @property
    def keeps_reasoning(self) -> bool:
        return self.model.thinking == "keep"

    @property
    def bytes_per_row(self) -> int:
        return min(1600, 3 * self.part.max_tokens) * self.part.responses

    def bind(self, tools: Tools) -> CandidateWriter:
        chat = tools.chat(self.model)
        try_system_prompt(chat, self.part.system_prompt, "prefer.system_prompt")
        return CandidateWriter(self, chat)


@dataclass(frozen=True, slots=True)
class CandidateWriter(RowWork["Engine"]):
    """Writes the candidates, in the chat format of the generator."""

    step: CandidatesStep
    chat: ChatFormat

    async def run(self, rows: pa.Table, engine: Engine) -> pa.Table:
        """All requests at once, those of a row next to one another: they share a prompt, for a prefix cache to find."""
        part = self.step.part
        at, many = live(rows), part.responses
        instructions = rows["instruction"].take(pa.array(at, pa.int64())).to_pylist()
        row_seeds = candidate_seeds(self.step.seed, many, rows["index"].to_numpy()[at])
        prompts = [self.chat.prompt([one], system=part.system_prompt) for one in instructions]
        completions = await asyncio.gather(
            *(
                engine.complete(prompt, self._sampling(int(seed), engine))
                for prompt, drawn in zip(prompts, row_seeds, strict=True)
                for seed in drawn
            )
        )
        groups = [completions[first : first + many] for first in range(0, len(completions), many)]
        written = [[self._split(done) for done in group] for group in groups]
        columns: dict[str, Any] = {
            "candidates": [[answer for _, answer in group] for group in written],
            "candidate_reasoning": [[reasoning for reasoning, _ in group] for group in written],
            "candidate_tokens": [[done.token_count for done in group] for group in groups],
            "candidate_seeds": row_seeds.tolist(),
            "candidate_finish_reasons": [[done.finish_reason for done in group] for group in groups],
        }
        return spread(rows, at, columns, self.step.adds)

    def _sampling(self, seed: int, engine: Engine) -> Sampling:
        part = self.step.part
        return Sampling(
            max_tokens=part.max_tokens,
            seed=seed,
            temperature=part.temperature,
            top_p=part.top_p,
            stop_ids=self.chat.answer_stop_ids,
            stop=self.chat.stop_texts,
            stop_repetition=engine.model.stops_repetition(part.stop_repetition),
        )

    def _split(self, done: Completion) -> tuple[str | None, str | None]:
        """The reasoning and the answer, each null where there is none that can be used."""
        if done.finish_reason in {"error", "repetition"}:
            return None, None
        reasoning, answer = self.chat.split_reasoning(done.text)
        return reasoning, answer or None


def candidate_seeds(run_seed: int, responses: int, index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A seed for each answer to each row: (rows, responses). One more response leaves the seeds before it alone."""
    each = [seeds(run_seed, f"prefer/{number}", index) for number in range(responses)]
    return np.stack(each, axis=1)
