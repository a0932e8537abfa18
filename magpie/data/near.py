"""Near instructions among the rows of datasets: found by their vectors, as `dedup` finds them within a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from magpie.engines import find_engine
from magpie.engines.embedder import encode, load_encoder
from magpie.neighbors.exact import near_pairs
from magpie.neighbors.vectors import Positions, ProgressCallback, UnitVectors, first_occurrences, no_progress
from magpie.recipe import Model
from magpie.steps.base.unread import groups, misses
from magpie.text import normal

THRESHOLD = 0.05
"""The squared L2 distance below which two instructions are near; the published one (arXiv 2406.08464)."""

EMBEDDER = "demo-embedder"

_BATCH = 1_024


def embedder_named(name: str) -> Model:
    """The embedder of this name."""
    return Model(model=name, engine="scripted" if name == "scripted" else "transformers")


@dataclass(frozen=True, slots=True)
class Near:
    """Texts by their distinct kinds, and which kinds are near each other: the pairs (`one`, `other`).

    `kind` has the number of its kind for each text: texts that are the same, or have the very same vector.
    """

    kind: Positions
    one: Positions
    other: Positions

    @property
    def kinds(self) -> int:
        """How many kinds there are."""
        return int(self.kind.max()) + 1 if len(self.kind) else 0


def near_texts(
    texts: Sequence[str],
    embedder: Model | None,
    threshold: float = THRESHOLD,
    on_progress: ProgressCallback = no_progress,
) -> Near:
    """Which texts are the same or near. Without an embedder, or with a threshold of 0, only those that are the same.

    Rows that hold what the embedder cannot read are compared only with rows that hold the same, as in `dedup`. Raises
    ModelError. Holds a vector a distinct text.
    """
    numbers: dict[str, int] = {}
    kind = np.array([numbers.setdefault(normal(text), len(numbers)) for text in texts], np.int64)
    none = np.array([], np.int64)
    if embedder is None or threshold <= 0 or len(numbers) < 2:
        return Near(kind, none, none)
    distinct = list(numbers)
    units = UnitVectors.of(_vectors(distinct, embedder, on_progress))
    reads_files = find_engine(embedder.engine or "").capabilities.loads_files
    unread = misses(embedder, distinct) if reads_files else np.zeros(len(distinct), np.int64)
    alike = np.arange(len(distinct))  # the first text with the same vector
    ones, others = [none], [none]
    for group in (np.flatnonzero(unread == 0), *groups(unread)):
        if len(group) < 2:
            continue
        within = units.take(group)
        first = first_occurrences(within)
        alike[group] = group[first]
        firsts = np.unique(first)  # equal vectors are compared once
        for one, other, _ in near_pairs(within.take(firsts), threshold, on_progress=on_progress):
            ones.append(group[firsts[one]])
            others.append(group[firsts[other]])
    return Near(alike[kind], np.concatenate(ones), np.concatenate(others))


def _vectors(texts: list[str], embedder: Model, on_progress: ProgressCallback) -> np.ndarray[Any, Any]:
    encoder = load_encoder(embedder)
    vectors: np.ndarray[Any, Any] | None = None
    for first in range(0, len(texts), _BATCH):
        on_progress("embedding", first, len(texts))
        batch = encode(encoder, texts[first : first + _BATCH], batch_size=128).astype(np.float16)
        if vectors is None:
            vectors = np.empty((len(texts), batch.shape[1]), np.float16)
        vectors[first : first + len(batch)] = batch
    assert vectors is not None
    return vectors
