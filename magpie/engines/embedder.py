"""Embedding models: texts in, vectors out.

A model is a sentence-transformers folder, on a GPU where there is one. With an engine that loads no files there is no
model: vectors are made from words by rule.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from magpie.engines import find_engine
from magpie.errors import ModelError
from magpie.recipe import Model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Vectors = np.ndarray[Any, np.dtype[np.float32]]

SCRIPTED_DIMENSIONS = 64

_BATCH = 128
_WORD = re.compile(r"\w+")


def encode(encoder: SentenceTransformer | None, texts: Sequence[str], *, batch_size: int) -> Vectors:
    """The vectors of texts (texts, dimensions), of length 1; without an encoder, scripted ones.

    Batches hold texts of like length, whatever the order given. Raises ModelError when a vector has no direction.
    """
    if not texts:
        return np.empty((0, 1), np.float32)
    if encoder is None:
        return unit(scripted_vectors(texts))
    vectors = encoder.encode(
        list(texts), batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True
    )
    return unit(np.asarray(vectors, np.float32))


def encode_all(model: Model, texts: Sequence[str]) -> Vectors:
    """The vectors of texts by a model that is loaded for them alone. Raises ModelError."""
    return encode(load_encoder(model), texts, batch_size=_BATCH)


def unit(vectors: Vectors) -> Vectors:
    """The vectors (rows) made length 1. Raises ModelError when one is zero or holds what is not a number."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ModelError(
            "the embedder gave a vector that is zero or not finite; set its `dtype` to float32, or use another embedder"
        )
    return np.asarray(vectors / lengths, np.float32)


def load_encoder(model: Model) -> SentenceTransformer | None:
    """The sentence-transformers model, on a GPU where there is one; None where the engine loads no files.

    Raises ModelError.

    It reads `context_length` tokens of a text, or what it was made for where that is less.
    `dtype: auto` is bfloat16 where the processor computes in it: 2.5 times as fast as float32 on a CPU that does
    (AVX512-BF16), and each vector moves by a squared distance of about 1e-4. Elsewhere it is float32.
    """
    if not find_engine(model.engine).capabilities.loads_files:
        return None
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
