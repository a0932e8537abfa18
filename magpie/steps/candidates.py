"""The generator answers each instruction several times, so that a reward model can choose between the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from magpie.engines.base import Completion
from magpie.recipe import Model, Prefer, Recipe
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import (
    ModelUse,
    RowStep,
    RowWork,
    Tools,
    answer_sampling,
    complete_each,
    counts_tokens,
    documents_in,
    first_messages,
    inner,
    live,
    seeds,
    spread,
    text_bytes,
    try_system_prompt,
)

if TYPE_CHECKING:
    from magpie.chat import ChatFormat
    from magpie.engines.base import Engine


@dataclass(frozen=True, slots=True)
class CandidatesStep(RowStep):
    """Adds `candidates`, the answers to the instruction in the order of their seeds, and how each came about.

    Every list is as long as `prefer.responses`. A candidate is null where the request failed, or the answer is empty or
    repeats itself; `candidate_finish_reasons` says which. An answer that was cut by length is kept.
    `candidate_reasoning` is what the model reasoned before each answer, or null; `candidate_tokens` counts both.
    """

    part: Prefer
    seed: int
    model: Model
    documents: tuple[str, ...] = ()

    name = "candidates"
    section = "prefer"
    answers = True
    version = 1
    adds = pa.schema(
        [
            inner("candidates", pa.list_(pa.string()), "The answers that a pair is chosen from."),
            inner(
                "candidate_reasoning", pa.list_(pa.string()), "What the model reasoned before each of them."
            ),
            counts_tokens("candidate_tokens", pa.list_(pa.int32()), "Tokens of each candidate."),
            inner("candidate_seeds", pa.list_(pa.int64()), "The seed of each candidate."),
            inner(
                "candidate_finish_reasons",
                pa.list_(pa.string()),
                "How each candidate ended, as response_finish_reason.",
            ),
        ]
    )

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the answers besides the model."""
        # The reward model and the margin choose among the answers, which is the step `prefer`.
        return {"seed": self.seed, **self.part.model_dump(mode="json", exclude={"model", "reward", "margin"})}

    @classmethod
    def plan(cls, recipe: Recipe, columns: pa.Schema) -> tuple[CandidatesStep, ...]:
        """The step, where the recipe makes pairs."""
        part = recipe.prefer
        if part is None:
            return ()
        return (cls(part, recipe.seed, recipe.model(part.model), documents_in(columns)),)

    @property
    def reads(self) -> tuple[str, ...]:
        """The instruction, and the document that it is about."""
        return ("instruction", *self.documents)

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", "chat")

    @property
    def keeps_reasoning(self) -> bool:
        return self.model.thinking == "keep"

    @property
    def requests(self) -> tuple[Request, ...]:
        prompt = lengths.INSTRUCTION + lengths.TEMPLATE
        return (Request(prompt, lengths.written(self.part.max_tokens), count=self.part.responses),)

    @property
    def bytes_per_row(self) -> int:
        return text_bytes(self.part.max_tokens) * self.part.responses

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
        """One request for each candidate, all at once."""
        part, chat = self.step.part, self.chat
        at, per_row = live(rows), part.responses
        row_seeds = candidate_seeds(self.step.seed, per_row, rows["index"].to_numpy()[at])
        prompts = [
            chat.prompt([instruction], system=part.system_prompt) for instruction in first_messages(rows, at)
        ]
        # The requests of a row are neighbours in the queue: they share a prompt, which a prefix cache then still holds.
        completions = await complete_each(
            engine,
            (prompt for prompt in prompts for _ in range(per_row)),
            (answer_sampling(part, chat, engine, int(seed)) for seed in row_seeds.ravel()),
        )
        groups = [completions[first : first + per_row] for first in range(0, len(completions), per_row)]
        texts = [[self._split(completion) for completion in group] for group in groups]
        columns: dict[str, Any] = {
            "candidates": [[answer for _, answer in group] for group in texts],
            "candidate_reasoning": [[reasoning for reasoning, _ in group] for group in texts],
            "candidate_tokens": [[completion.token_count for completion in group] for group in groups],
            "candidate_seeds": row_seeds.tolist(),
            "candidate_finish_reasons": [
                [completion.finish_reason for completion in group] for group in groups
            ],
        }
        return spread(rows, at, columns, self.step.adds)

    def _split(self, completion: Completion) -> tuple[str | None, str | None]:
        """The reasoning and the answer, each null where there is none that can be used."""
        if completion.finish_reason in {"error", "repetition"}:
            return None, None
        reasoning, answer = self.chat.split_reasoning(self.chat.without_end(completion.text))
        return reasoning, None if not answer or self.chat.has_leak(answer) else answer


def candidate_seeds(run_seed: int, responses: int, index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A seed for each answer to each row: int64, (rows, responses)."""
    # Each response has a purpose of its own, so that one response more leaves the seeds of the others as they are.
    each = [seeds(run_seed, f"prefer/{number}", index) for number in range(responses)]
    return np.stack(each, axis=1)
