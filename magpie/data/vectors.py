"""The vectors of texts, kept in the cache by what was read: the same texts are not embedded a second time."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from magpie.engines import find_engine
from magpie.engines.embedder import encode, load_encoder
from magpie.errors import MagpieError
from magpie.models.cache import cache_folder
from magpie.neighbors.vectors import ProgressCallback, no_progress
from magpie.recipe import Model
from magpie.storage.writing import make_folders, replacing
from magpie.text import normal

_log = logging.getLogger(__name__)
_BATCH = 1_024


def vectors_of(
    texts: Sequence[str], embedder: Model, on_progress: ProgressCallback = no_progress
) -> np.ndarray[Any, Any]:
    """The vectors of the texts, float16, one for each. Raises ModelError.

    What a model computes is kept in the cache's folder `vectors`, which may be deleted at any time.
    """
    if not find_engine(embedder.engine).capabilities.loads_files:
        return _computed(texts, embedder, on_progress)
    kept = _place(texts, embedder)
    held = None if kept is None else _read(kept, len(texts))
    if held is not None:
        return held
    vectors = _computed(texts, embedder, on_progress)
    if kept is not None:
        _keep(kept, vectors)
    return vectors


def _computed(texts: Sequence[str], embedder: Model, on_progress: ProgressCallback) -> np.ndarray[Any, Any]:
    encoder = load_encoder(embedder)
    parts = []
    for first in range(0, len(texts), _BATCH):
        on_progress("embedding", first, len(texts))
        parts.append(encode(encoder, texts[first : first + _BATCH], batch_size=128).astype(np.float16))
    return np.concatenate(parts) if parts else np.empty((0, 1), np.float16)


def _place(texts: Sequence[str], embedder: Model) -> Path | None:
    """Where these vectors are kept; None where there is no folder for a cache."""
    content = hashlib.blake2b(digest_size=20)
    about = (embedder.model, embedder.revision, embedder.dtype, embedder.context_length)
    for text in (repr(about), *texts):
        encoded = normal(text).encode("utf-8", "surrogatepass")
        content.update(len(encoded).to_bytes(8, "little") + encoded)
    try:
        return cache_folder() / "vectors" / f"{content.hexdigest()}.npy"
    except MagpieError:
        return None


def _read(place: Path, rows: int) -> np.ndarray[Any, Any] | None:
    try:
        held: np.ndarray[Any, Any] = np.load(place, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None  # not there, or cut
    return held if held.ndim == 2 and len(held) == rows and held.dtype == np.float16 else None


def _keep(place: Path, vectors: np.ndarray[Any, Any]) -> None:
    try:
        make_folders(place.parent)
        with replacing(place) as new, new.open("wb") as file:
            np.save(file, vectors, allow_pickle=False)
    except (OSError, MagpieError) as error:  # the next call embeds again: no reason to fail
        _log.info("vectors are not kept: %s", error)
