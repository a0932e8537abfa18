"""Turns each instruction into a vector of length 1, near to the vectors of instructions that mean the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from magpie.engines.embedder import encode, load_encoder
from magpie.recipe import Embed, Model
from magpie.steps.base import inner, live, spread

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from magpie.engines.base import Engine


class EmbedStep:
    """Adds `embedding`: float16, of length 1 to float16's precision, as many dimensions as the model has.

    The model is loaded by `prepare`, or by the first run, and kept until `close`. It cuts texts it cannot read whole.
    With the engine `scripted` there is no model: vectors are made from words by rule (see `embedder.scripted_vectors`).
    """

    name = "embed"
    reads = ("instruction",)
    adds = pa.schema([inner("embedding", pa.list_(pa.float16()))])
    version = 1

    def __init__(self, part: Embed, model: Model) -> None:
        self._part = part
        self._model = model
        self._encoder: SentenceTransformer | None = None
        self._worker: ThreadPoolExecutor | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model."""
        return self._part.model_dump(mode="json", exclude={"model", "batch_size"})

    async def prepare(self) -> None:
        """Loads the model."""
        await self._in_turn(self._load)

    async def run(self, rows: pa.Table, engine: Engine | None) -> pa.Table:
        """Embeds one shard; shards wait for each other, since one already keeps every core or the GPU at work."""
        return await self._in_turn(self._embed, rows)

    async def close(self) -> None:
        """Lets the model go, once the shard at work is done. A later run loads it again."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await asyncio.to_thread(worker.shutdown, cancel_futures=True)
        self._encoder = None

    async def _in_turn(self, work: Callable[..., Any], *given: Any) -> Any:
        if self._worker is None:
            self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embed")
        return await asyncio.get_running_loop().run_in_executor(self._worker, work, *given)

    def _load(self) -> SentenceTransformer | None:
        if self._encoder is None and self._model.engine != "scripted":
            self._encoder = load_encoder(self._model)
        return self._encoder

    def _embed(self, rows: pa.Table) -> pa.Table:
        at = live(rows)
        texts = rows["instruction"].take(pa.array(at, pa.int64())).to_pylist()
        distinct = list(dict.fromkeys(texts))
        encoder = self._load() if distinct else None
        vectors = encode(encoder, distinct, batch_size=self._part.batch_size).astype(np.float16)
        vector_of = dict(zip(distinct, vectors, strict=True))
        return spread(rows, at, {"embedding": [vector_of[text] for text in texts]}, self.adds)
