"""Embedding models: sentence-transformers, on a GPU where there is one.

With an engine that loads no files there is no model: vectors are computed from the words of a text.
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
    """The vectors of texts (texts, dimensions), of length 1; `scripted_vectors` where there is no encoder.

    Raises ModelError when a vector is zero or not finite.
    """
    if not texts:
        return np.empty((0, 1), np.float32)
    if encoder is None:
        return unit(scripted_vectors(texts))
    # sentence-transformers sorts by length itself, so that a batch needs little padding.
    vectors = encoder.encode(
        list(texts), batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True
    )
    return unit(np.asarray(vectors, np.float32))


def encode_all(model: Model, texts: Sequence[str]) -> Vectors:
    """The vectors of texts, by a model that is loaded for this call. Raises ModelError."""
    return encode(load_encoder(model), texts, batch_size=_BATCH)


def unit(vectors: Vectors) -> Vectors:
    """The vectors (rows), scaled to length 1. Raises ModelError when one is zero or not finite."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ModelError(
            "the embedder gave a vector that is zero or not finite; set its `dtype` to float32, or use another embedder"
        )
    return np.asarray(vectors / lengths, np.float32)


def load_encoder(model: Model) -> SentenceTransformer | None:
    """The sentence-transformers model, on a GPU where there is one; None where the engine loads no files.

    Raises ModelError.

    It reads the first `context_length` tokens of a text, or as many as it was trained for where that is less.
    `dtype: auto` is bfloat16 where the hardware computes in it, else float32.
    """
    if not find_engine(model.engine).capabilities.loads_files:
        return None
    from sentence_transformers import SentenceTransformer

    from magpie.models import resolve

    files = resolve(model)
    try:
        with _no_progress_bars():
            encoder = SentenceTransformer(
                str(files.path),
                local_files_only=True,
                trust_remote_code=model.trust_remote_code,
                model_kwargs={"dtype": _dtype(model), "use_safetensors": True},
            )
        longest = encoder.max_seq_length
        # Infinity is that of static embeddings, which read texts of any length at no cost.
        if longest is None or model.context_length < longest < math.inf:
            encoder.max_seq_length = model.context_length
        return encoder
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{model.model} cannot be loaded as an embedder ({reason}); name an embedding model"
        ) from error


def scripted_vectors(texts: Sequence[str]) -> Vectors:
    """A vector for each text without a model, SCRIPTED_DIMENSIONS wide and not yet of length 1.

    Each word has a direction, given by a hash of the word, and a text is the sum of its words: equal texts have equal
    vectors, texts that share most words are near, and others are not.
    """
    words_of_texts = [_WORD.findall(text.casefold()) or [text] for text in texts]
    if not words_of_texts:
        return np.empty((0, SCRIPTED_DIMENSIONS), np.float32)
    digests = b"".join(
        hashlib.blake2b(word.encode(), digest_size=SCRIPTED_DIMENSIONS // 8).digest()
        for words in words_of_texts
        for word in words
    )
    # Each bit of the hash is -1 or 1 in one dimension. `reduceat` adds up the words of each text.
    bits = np.unpackbits(np.frombuffer(digests, np.uint8)).reshape(-1, SCRIPTED_DIMENSIONS)
    starts = np.cumsum([0, *(len(words) for words in words_of_texts[:-1])])
    sums = np.add.reduceat(bits.astype(np.float32) * 2 - 1, starts)
    # Words that cancel each other out would leave a vector without a direction.
    sums[~sums.any(axis=1), 0] = 1
    return np.asarray(sums, np.float32)


def _dtype(model: Model) -> Any:
    import torch

    if model.dtype != "auto":
        return getattr(torch, model.dtype)
    if torch.cuda.is_available():
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # On a CPU with AVX512-BF16 it is 2.5 times as fast as float32, and moves each vector by a squared distance of
        # about 1e-4.
        has_bfloat16 = torch.cpu._is_avx512_bf16_supported() and not torch.backends.mps.is_available()
    return torch.bfloat16 if has_bfloat16 else torch.float32


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Turn transformers' progress bars off while weights are loaded."""
    from transformers.utils import logging

    were_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_enabled:
            logging.enable_progress_bar()
