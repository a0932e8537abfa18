"""The generator is given nothing but its pre-query template, and writes the user's message itself."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from magpie.engines.base import Sampling
from magpie.recipe import Instruct
from magpie.steps.base import seeds

if TYPE_CHECKING:
    from magpie.chat import ChatFormat
    from magpie.engines.base import Engine

_GOLDEN_RATIO = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class InstructStep:
    """Adds the raw instruction, and all that is needed to say how it came about."""

    part: Instruct
    seed: int
    chat: ChatFormat | None = None

    name = "instruct"
    reads = ()
    version = 1
    adds = pa.schema(
        [
            ("raw_instruction", pa.string()),
            ("temperature", pa.float32()),
            ("top_p", pa.float32()),
            ("top_k", pa.int32()),
            ("min_p", pa.float32()),
            ("instruct_seed", pa.int64()),
            ("instruct_tokens", pa.int32()),
            ("instruct_finish_reason", pa.string()),
            ("instruct_error", pa.string()),
        ]
    )

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model."""
        return {"seed": self.seed, **self.part.model_dump(mode="json", exclude={"model"})}

    def with_chat(self, chat: ChatFormat) -> InstructStep:
        """The same step, speaking this model's format."""
        return replace(self, chat=chat)

    async def run(self, rows: pa.Table, engine: Engine | None) -> pa.Table:
        """One request a row, all at once; each with its own seed, since the prompts are all the same."""
        assert engine is not None and self.chat is not None
        prompt = self.chat.prompt([], system=self.part.system_prompt)
        index = rows["index"].to_numpy()
        draws = [self.part.mix[entry] for entry in mix_entries([draw.share for draw in self.part.mix], index)]
        row_seeds = seeds(self.seed, "instruct", index).tolist()
        stop = (*self.chat.stop_texts, "\n") if self.part.stop_at_newline else self.chat.stop_texts
        completions = await asyncio.gather(
            *(
                engine.complete(
                    prompt,
                    Sampling(
                        max_tokens=self.part.max_tokens,
                        seed=seed,
                        temperature=draw.temperature,
                        top_p=draw.top_p,
                        top_k=draw.top_k,
                        min_p=draw.min_p,
                        stop_ids=self.chat.stop_ids,
                        stop=stop,
                    ),
                )
                for draw, seed in zip(draws, row_seeds, strict=True)
            )
        )
        columns: list[list[Any]] = [
            [completion.text for completion in completions],
            [draw.temperature for draw in draws],
            [draw.top_p for draw in draws],
            [draw.top_k for draw in draws],
            [draw.min_p for draw in draws],
            row_seeds,
            [completion.token_count for completion in completions],
            [completion.finish_reason for completion in completions],
            [completion.error for completion in completions],
        ]
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, self.adds, strict=True)]
        return pa.table([rows["id"], *arrays], schema=pa.schema([("id", pa.string()), *self.adds]))


def mix_entries(shares: list[float], index: np.ndarray[Any, Any]) -> list[int]:
    """Which entry of a sampling mix each row draws from, decided by its position alone.

    Multiples of the golden ratio modulo 1 fill the unit interval evenly, so that every stretch of rows, and so every
    shard, holds each entry in its share to within a row or two, however many rows the run has.
    """
    bounds = np.cumsum(shares) / np.sum(shares)
    where = (np.asarray(index, dtype=np.float64) + 0.5) * _GOLDEN_RATIO % 1.0
    entries = np.searchsorted(bounds, where, side="right")
    return [int(entry) for entry in np.minimum(entries, len(shares) - 1)]
