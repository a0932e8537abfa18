"""Turns each instruction into a vector of length 1, near the vectors of instructions with the same meaning."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from magpie.engines.embedder import encode, load_encoder
from magpie.engines.gpus import free_gpu_memory
from magpie.recipe import Embed, Model, Recipe
from magpie.sizing import lengths
from magpie.sizing.roofline import Request
from magpie.steps.base import ModelUse, PreparedWork, RowStep, Tools, inner, live, spread, values_at
from magpie.text import normal

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True, slots=True)
class EmbedStep(RowStep):
    """Adds `embedding`: float16, of length 1 to float16's precision, as many dimensions as the model has."""

    part: Embed
    model: Model

    name = "embed"
    reads = ("instruction",)
    adds = pa.schema([inner("embedding", pa.list_(pa.float16()), "The vector of the instruction.")])

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[EmbedStep, ...]:
        """The step, where the recipe wants vectors."""
        part = recipe.embed
        return () if part is None else (cls(part, recipe.model(part.model)),)

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model."""
        # The batch size moves a vector by a rounding error at most.
        return self.part.model_dump(mode="json", exclude={"model", "batch_size"})

    @property
    def uses(self) -> ModelUse:
        return ModelUse(self.part.model, self.model, "embed")

    @property
    def requests(self) -> tuple[Request, ...]:
        return (Request(lengths.INSTRUCTION, 0),)

    @property
    def bytes_per_row(self) -> int:
        # float16 hardly compresses; 768 dimensions is what larger embedders have.
        return 2 * 768

    def bind(self, _: Tools) -> Embedder:
        return Embedder(self.part, self.model)


class Embedder(PreparedWork[None]):
    """Embeds shards. The model is loaded by `prepare`, or by the first run, and kept until `close`.

    Texts that are too long for the model are cut.
    """

    def __init__(self, part: Embed, model: Model) -> None:
        self._part = part
        self._model = model
        self._encoder: SentenceTransformer | None = None
        self._worker: ThreadPoolExecutor | None = None

    async def prepare(self) -> None:
        """Loads the model."""
        await self._in_turn(self._load)

    async def run(self, rows: pa.Table, _: None) -> pa.Table:
        """Embeds one shard."""
        return await self._in_turn(self._embed, rows)

    async def close(self) -> None:
        """Releases the model when the shard at work is done. A later run loads it again."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await asyncio.to_thread(worker.shutdown, cancel_futures=True)
        if self._encoder is not None:
            self._encoder = None
            free_gpu_memory()

    async def _in_turn(self, work: Callable[..., Any], *arguments: Any) -> Any:
        # One thread: a shard already keeps every core or the GPU at work, and the model must not be loaded twice.
        if self._worker is None:
            self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embed")
        return await asyncio.get_running_loop().run_in_executor(self._worker, work, *arguments)

    def _load(self) -> SentenceTransformer | None:
        if self._encoder is None:
            self._encoder = load_encoder(self._model)
        return self._encoder

    def _embed(self, rows: pa.Table) -> pa.Table:
        at = live(rows)
        texts = [normal(text) for text in values_at(rows, "instruction", at)]
        # Each text once: so equal texts have the very same vector, and many generators repeat themselves.
        distinct = list(dict.fromkeys(texts))
        encoder = self._load() if distinct else None  # a shard without live rows needs no model
        vectors = encode(encoder, distinct, batch_size=self._part.batch_size).astype(np.float16)
        vector_of = dict(zip(distinct, vectors, strict=True))
        return spread(rows, at, {"embedding": [vector_of[text] for text in texts]}, EmbedStep.adds)
