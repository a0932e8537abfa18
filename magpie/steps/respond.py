"""The generator answers the instruction it wrote."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie.engines.base import Completion, Sampling
from magpie.recipe import Respond
from magpie.steps.base import REJECTED, counts_tokens, live, seeds, spread

if TYPE_CHECKING:
    from magpie.chat import ChatFormat
    from magpie.engines.base import Engine


@dataclass(frozen=True, slots=True)
class RespondStep:
    """Adds the response to every row that is still in. `response_length` is characters.

    What a model reasons before its answer goes to `reasoning`, which is null where there is none; `response` is the
    answer alone. `response_tokens` counts both.
    """

    part: Respond
    seed: int
    chat: ChatFormat | None = None

    name = "respond"
    reads = ("instruction",)
    version = 2
    adds = pa.schema(
        [
            ("reasoning", pa.string()),
            ("response", pa.string()),
            ("response_length", pa.int32()),
            ("response_seed", pa.int64()),
            counts_tokens("response_tokens"),
            ("response_finish_reason", pa.string()),
            REJECTED,
        ]
    )

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model. `rows` does not: it decides which rows come here at all."""
        return {"seed": self.seed, **self.part.model_dump(mode="json", exclude={"model", "rows"})}

    def with_chat(self, chat: ChatFormat) -> RespondStep:
        """The same step, speaking this model's format."""
        return replace(self, chat=chat)

    async def run(self, rows: pa.Table, engine: Engine | None) -> pa.Table:
        """One request a row, all at once."""
        assert engine is not None and self.chat is not None
        at = live(rows)
        part, chat = self.part, self.chat
        index = rows["index"].to_numpy()
        row_seeds = seeds(self.seed, "respond", index[at]).tolist()
        instructions = rows["instruction"].take(pa.array(at, pa.int64())).to_pylist()
        can_stop = "stop_repetition" in engine.model.controls
        completions = await asyncio.gather(
            *(
                engine.complete(
                    chat.prompt([instruction], system=part.system_prompt),
                    Sampling(
                        max_tokens=part.max_tokens,
                        seed=seed,
                        temperature=part.temperature,
                        top_p=part.top_p,
                        stop_ids=chat.answer_stop_ids,
                        stop=chat.stop_texts,
                        stop_repetition=can_stop if part.stop_repetition is None else part.stop_repetition,
                    ),
                )
                for instruction, seed in zip(instructions, row_seeds, strict=True)
            )
        )
        written = [chat.split_reasoning(completion.text) for completion in completions]
        columns: dict[str, list[Any]] = {
            "reasoning": [reasoning for reasoning, _ in written],
            "response": [answer for _, answer in written],
            "response_length": [len(answer) for _, answer in written],
            "response_seed": row_seeds,
            "response_tokens": [completion.token_count for completion in completions],
            "response_finish_reason": [completion.finish_reason for completion in completions],
            "rejected": [
                _trouble(completion, reasoning, answer)
                for completion, (reasoning, answer) in zip(completions, written, strict=True)
            ],
        }
        return spread(rows, at, columns, self.adds)


def _trouble(completion: Completion, reasoning: str | None, answer: str) -> str | None:
    """Why a row without a usable answer is out."""
    if completion.finish_reason == "error":
        return "respond: engine error"
    if completion.finish_reason == "repetition":
        return "respond: repeats itself"
    if answer:
        return None
    return "respond: empty" if reasoning is None else "respond: no answer after the reasoning"
