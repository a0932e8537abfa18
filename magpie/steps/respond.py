"""The generator answers the instruction it wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie.engines.base import Completion
from magpie.recipe import Model, Recipe, Respond
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import (
    REJECTED,
    ModelUse,
    RowStep,
    RowWork,
    Tools,
    answer_sampling,
    column,
    complete_each,
    counts_tokens,
    documents_in,
    first_messages,
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
class RespondStep(RowStep):
    """Adds the response to every row that is still in. `response_length` is characters.

    What a model reasons before its answer goes to `reasoning`, which is null where there is none; `response` is the
    answer alone. `response_tokens` counts both.
    """

    part: Respond
    seed: int
    model: Model
    documents: tuple[str, ...] = ()

    name = "respond"
    answers = True
    version = 2
    adds = pa.schema(
        [
            column(
                "reasoning",
                pa.string(),
                "What the model reasoned before the response; null where it did not.",
            ),
            column("response", pa.string(), "The assistant's first answer.", published="response"),
            column("response_length", pa.int32(), "Characters of the response.", published="response_length"),
            column("response_seed", pa.int64(), "The seed that the response was drawn with."),
            counts_tokens("response_tokens", meaning="Tokens of the response, its reasoning included."),
            column(
                "response_finish_reason",
                pa.string(),
                '"stop" where the model ended it, "length" where it was cut, "error" where the engine failed.',
            ),
            REJECTED,
        ]
    )

    @classmethod
    def plan(cls, recipe: Recipe, columns: pa.Schema) -> tuple[RespondStep, ...]:
        """The step, where the recipe has responses."""
        part = recipe.respond
        if part is None:
            return ()
        return (cls(part, recipe.seed, recipe.model(part.model), documents_in(columns)),)

    @property
    def reads(self) -> tuple[str, ...]:
        """The instruction, and the document that it is about."""
        return ("instruction", *self.documents)

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model."""
        # `rows` decides which rows come to this step, and changes the output of none of them.
        return {"seed": self.seed, **self.part.model_dump(mode="json", exclude={"model", "rows"})}

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "write", "chat")

    @property
    def keeps_reasoning(self) -> bool:
        return self.model.thinking == "keep"

    @property
    def answers_every_row(self) -> bool:
        return self.part.rows == "all"

    @property
    def requests(self) -> tuple[Request, ...]:
        prompt = lengths.INSTRUCTION + lengths.TEMPLATE
        return (Request(prompt, lengths.written(self.part.max_tokens)),)

    @property
    def bytes_per_row(self) -> int:
        return text_bytes(self.part.max_tokens)

    def bind(self, tools: Tools) -> Responder:
        chat = tools.chat(self.model)
        try_system_prompt(chat, self.part.system_prompt, "respond.system_prompt")
        return Responder(self, chat)


@dataclass(frozen=True, slots=True)
class Responder(RowWork["Engine"]):
    """Writes the responses, in the chat format of the generator."""

    step: RespondStep
    chat: ChatFormat

    async def run(self, rows: pa.Table, engine: Engine) -> pa.Table:
        """One request a row, all at once."""
        at = live(rows)
        part, chat = self.step.part, self.chat
        row_seeds = seeds(self.step.seed, "respond", rows["index"].to_numpy()[at]).tolist()
        instructions = first_messages(rows, at)
        completions = await complete_each(
            engine,
            (chat.prompt([instruction], system=part.system_prompt) for instruction in instructions),
            (answer_sampling(part, chat, engine, seed) for seed in row_seeds),
        )
        texts = [chat.split_reasoning(chat.without_end(completion.text)) for completion in completions]
        columns: dict[str, list[Any]] = {
            "reasoning": [reasoning for reasoning, _ in texts],
            "response": [answer for _, answer in texts],
            "response_length": [len(answer) for _, answer in texts],
            "response_seed": row_seeds,
            "response_tokens": [completion.token_count for completion in completions],
            "response_finish_reason": [completion.finish_reason for completion in completions],
            "rejected": [
                _reason(completion, reasoning, answer, leaks=chat.has_leak(answer))
                for completion, (reasoning, answer) in zip(completions, texts, strict=True)
            ],
        }
        return spread(rows, at, columns, self.step.adds)


def _reason(completion: Completion, reasoning: str | None, answer: str, *, leaks: bool) -> str | None:
    """Why a row without a usable answer is out; None where it has one."""
    if completion.finish_reason == "error":
        return "respond: engine error"
    if completion.finish_reason == "repetition":
        return "respond: repeats itself"
    # As an instruction is: trained on, it would teach a model to write both sides of a conversation.
    if leaks:
        return "respond: role header inside"
    # An answer cut by length stays in: `response_finish_reason` lets a filter decide about it.
    if answer:
        return None
    return "respond: empty" if reasoning is None else "respond: no answer after the reasoning"
