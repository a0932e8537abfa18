"""Turns each instruction into a vector of length 1, near to the vectors of instructions that mean the same."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from magpie.errors import ModelError
from magpie.recipe import Embed, Model
from magpie.steps.base import live, spread

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from magpie.engines.base import Engine

Vectors = np.ndarray[Any, np.dtype[np.float32]]

SCRIPTED_DIMENSIONS = 64

_WORD = re.compile(r"\w+")


class EmbedStep:
    """Adds `embedding`: float16, of length 1 to float16's precision, as many dimensions as the model has.

    The model is loaded by `prepare`, or by the first run, and kept until `close`. It cuts texts it cannot read whole.
    With the engine `scripted` there is no model: vectors are made from words by rule (see `scripted_vectors`).
    """

    name = "embed"
    reads = ("instruction",)
    adds = pa.schema([("embedding", pa.list_(pa.float16()))])
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
        vectors = unit(self._vectors(distinct)).astype(np.float16)
        vector_of = dict(zip(distinct, vectors, strict=True))
        return spread(rows, at, {"embedding": [vector_of[text] for text in texts]}, self.adds)

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.empty((0, 1), np.float32)
        encoder = self._load()
        if encoder is None:
            return scripted_vectors(texts)
        vectors = encoder.encode(
            list(texts), batch_size=self._part.batch_size, show_progress_bar=False, convert_to_numpy=True
        )
        return np.asarray(vectors, np.float32)


def unit(vectors: Vectors) -> Vectors:
    """The vectors (rows) made length 1. Raises ModelError when one is zero or holds what is not a number."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ModelError(
            "the embedder gave a vector that is zero or not finite; set its `dtype` to float32, or use another embedder"
        )
    return np.asarray(vectors / lengths, np.float32)


def load_encoder(model: Model) -> SentenceTransformer:
    """The sentence-transformers model, on a GPU where there is one. Raises ModelError.

    It reads `context_length` tokens of a text, or what it was made for where that is less.
    `dtype: auto` is bfloat16 where the processor computes in it: 2.5 times as fast as float32 on a CPU that does
    (AVX512-BF16), and each vector moves by a squared distance of about 1e-4. Elsewhere it is float32.
    """
    from sentence_transformers import SentenceTransformer

    from magpie.models import resolve

    files = resolve(model)
    try:
        with _no_bars():
            encoder = SentenceTransformer(
                str(files.path),
                local_files_only=True,
                trust_remote_code=model.trust_remote_code,
                model_kwargs={"dtype": _dtype(model), "use_safetensors": True},
            )
        longest = encoder.max_seq_length
        if (
            longest is None or model.context_length < longest < math.inf
        ):  # static embeddings read texts of any length
            encoder.max_seq_length = model.context_length
        return encoder
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{model.model} cannot be loaded as an embedder ({why}); name an embedding model"
        ) from error


def scripted_vectors(texts: Sequence[str]) -> Vectors:
    """A vector for each text by rule, SCRIPTED_DIMENSIONS wide and not yet of length 1: no model, no files.

    Each word has a direction, drawn from a hash of the word, and a text is the sum of its words: equal texts have equal
    vectors, texts that share most words are near, and others are not.
    """
    words = [_WORD.findall(text.casefold()) or [text] for text in texts]
    if not words:
        return np.empty((0, SCRIPTED_DIMENSIONS), np.float32)
    digests = b"".join(
        hashlib.blake2b(word.encode(), digest_size=SCRIPTED_DIMENSIONS // 8).digest()
        for of_text in words
        for word in of_text
    )
    bits = np.unpackbits(np.frombuffer(digests, np.uint8)).reshape(-1, SCRIPTED_DIMENSIONS)
    starts = np.cumsum([0, *(len(of_text) for of_text in words[:-1])])
    sums = np.add.reduceat(bits.astype(np.float32) * 2 - 1, starts)
    sums[~sums.any(axis=1), 0] = 1  # words that cancel out
    return np.asarray(sums, np.float32)


def _dtype(model: Model) -> Any:
    import torch

    if model.dtype != "auto":
        return getattr(torch, model.dtype)
    if torch.cuda.is_available():
        quick = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        quick = torch.cpu._is_avx512_bf16_supported() and not torch.backends.mps.is_available()
    return torch.bfloat16 if quick else torch.float32


@contextmanager
def _no_bars() -> Iterator[None]:
    """No progress bar while weights are loaded; they are as they were afterwards."""
    from transformers.utils import logging as switches

    drawn = switches.is_progress_bar_enabled()
    switches.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            switches.enable_progress_bar()
