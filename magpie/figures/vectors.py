"""Vectors of a sample of rows: those that the run stored, those of an embedder, or, without either, of their words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from magpie.engines.embedder import encode_all
from magpie.figures.report_rows import INSTRUCTION, VECTOR, Positions, ReportRows
from magpie.recipe import Model
from magpie.runs.public import public_name

MOST_ROWS = 4000
"""The most rows whose vectors a report looks at."""

_WORD_DIMENSIONS = 64
Floats = np.ndarray[Any, np.dtype[np.float32]]
Kind = Literal["stored", "embedded", "words"]


@dataclass(frozen=True, slots=True)
class Sampled:
    """A seeded sample of the kept rows that have an instruction, with a vector of length 1 for each.

    `positions` are those of the rows, ascending; `vectors` is float32, (rows, dimensions). `made_by` says of what.
    """

    positions: Positions
    texts: tuple[str, ...]
    vectors: Floats
    of: int
    kind: Kind
    model: Model | None = None

    @property
    def made_by(self) -> str:
        """What the vectors are, in words."""
        if self.kind == "words":
            return "the words of the instructions (TF-IDF, reduced by an SVD), as no embedding is stored"
        name = "the embedder" if self.model is None else public_name(self.model.model)
        return f"the embeddings {'stored with the run' if self.kind == 'stored' else 'made for this report'}, by {name}"


def sampled(rows: ReportRows, *, embedder: Model | None = None, most: int = MOST_ROWS) -> Sampled | None:
    """The sample; None where no row has an instruction. Without stored vectors or an embedder, by words.

    Raises ModelError where the embedder cannot be loaded.
    """
    stored = VECTOR in rows.names
    characters = f"{INSTRUCTION}_characters"
    if not rows.has(characters):
        return None
    there = np.asarray(rows.table[characters].fill_null(0).to_numpy()) > 0
    at = rows.sample(most, of=rows.kept & there)
    if not len(at):
        return None
    table = rows.at(at, [INSTRUCTION, VECTOR] if stored else [INSTRUCTION])
    texts: list[str] = table[INSTRUCTION].to_pylist()
    of = int((rows.kept & there).sum())
    if stored:
        has = np.asarray(table[VECTOR].is_valid().to_numpy(), bool)
        if has.any():
            at, texts = at[has], [text for text, is_there in zip(texts, has, strict=True) if is_there]
            flat = table[VECTOR].combine_chunks().flatten().to_numpy().astype(np.float32)
            return Sampled(at, tuple(texts), _unit(flat.reshape(len(at), -1)), of, "stored", stored_by(rows))
    if embedder is not None:
        return Sampled(at, tuple(texts), encode_all(embedder, texts), of, "embedded", embedder)
    vectors = word_vectors(texts)
    return None if vectors is None else Sampled(at, tuple(texts), vectors, of, "words")


def stored_by(rows: ReportRows) -> Model | None:
    """The model that made the stored vectors."""
    recipe = rows.recipe
    return None if recipe is None or recipe.embed is None else recipe.model(recipe.embed.model)


def word_vectors(texts: Sequence[str]) -> Floats | None:
    """A vector for each text by its words, of length 1; None where the texts have no words to compare by."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    from magpie.text import words

    try:
        weights = TfidfVectorizer(analyzer=words, sublinear_tf=True, min_df=2, max_df=0.5).fit_transform(
            texts
        )
    except ValueError:  # no word stands in two texts
        return None
    dimensions = min(_WORD_DIMENSIONS, min(weights.shape) - 1)
    if dimensions < 2:
        return None
    return _unit(TruncatedSVD(dimensions, random_state=0).fit_transform(weights).astype(np.float32))


def _unit(vectors: Any) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)
