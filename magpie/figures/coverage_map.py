"""A map of instructions: those with near meanings lie near each other, and other datasets are laid over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from magpie.data.instructions import read_instructions
from magpie.engines.embedder import encode_all
from magpie.errors import RunError
from magpie.figures.report_rows import SEED, Positions, report_rows
from magpie.figures.vectors import Floats, Sampled, sampled
from magpie.machine import processors
from magpie.recipe import Model
from magpie.runs.public import public_name
from magpie.runs.run import is_run
from magpie.storage import open_storage

MOST_OTHER_ROWS = 1500
"""The most rows of each other dataset that are laid over the map."""

_COMPONENTS = 50  # what the vectors are reduced to before: as the authors of t-SNE do
_FEWEST = 20
_EARLY, _LATER = 150, 350  # rounds of t-SNE; on samples of this size the picture is settled by then


@dataclass(frozen=True, slots=True)
class OtherRows:
    """Instructions of another dataset: a seeded sample, with vectors of the same embedder, and how many there are."""

    name: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    vectors: Floats
    of: int


@dataclass(frozen=True, slots=True)
class CoverageMap:
    """Places in the plane, (rows, 2) in [0, 1]: of the sample's rows, then of each other dataset's.

    `method` names how they were found, with its settings.
    """

    places: Floats
    others: tuple[Floats, ...]
    method: str


def other_rows(name: str, embedder: Model | None, sample: Sampled | None) -> OtherRows:
    """The instructions of another dataset, with stored vectors where the same embedder made them.

    Raises RunError where there are no vectors to compare with, RecipeError where the dataset cannot be read, and
    ModelError.
    """
    if is_run(open_storage(name)):
        rows = report_rows(name)
        found = sampled(rows, most=MOST_OTHER_ROWS)
        if found is not None and found.kind == "stored" and embedder is not None and found.model == embedder:
            ids = tuple(str(rows.table["id"][int(at)]) for at in found.positions)
            return OtherRows(rows.name, ids, found.texts, found.vectors, found.of)
    read = read_instructions(name)
    chosen = _chosen(len(read.texts))
    texts = [read.texts[at] for at in chosen]
    if embedder is None:
        raise RunError(
            f"{name} cannot be compared with: the vectors here are made of words alone; name an embedder for both "
            "with --embedder, such as demo-embedder"
        )
    ids = tuple(read.ids[at] for at in chosen)
    vectors = encode_all(embedder, texts)
    if sample is not None and vectors.shape[1] != sample.vectors.shape[1]:
        raise RunError(
            f"{name} cannot be compared with: the embedder gives {vectors.shape[1]} dimensions now, and the stored "
            f"vectors have {sample.vectors.shape[1]}; build the run again with the embedder that is there"
        )
    return OtherRows(public_name(read.name), ids, tuple(texts), vectors, len(read.texts))


def _chosen(rows: int) -> Positions:
    if rows <= MOST_OTHER_ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(SEED).choice(rows, MOST_OTHER_ROWS, replace=False))


def coverage_map(sample: Sampled, others: Sequence[OtherRows] = ()) -> CoverageMap | None:
    """The places of the sample and of the others, found together; None where there are too few rows for a map."""
    vectors = np.concatenate([sample.vectors, *(other.vectors for other in others)])
    if len(vectors) < _FEWEST:
        return None
    reduced = _principal(vectors, min(_COMPONENTS, *vectors.shape))
    if find_spec("openTSNE") is None:
        places, method = reduced[:, :2], "the first two principal components (openTSNE is not installed)"
    else:
        places, method = _tsne(reduced)
    low, high = np.percentile(places, [0, 100], axis=0)
    places = (places - low) / np.maximum(high - low, 1e-9)
    ends = np.cumsum([len(sample.vectors), *(len(other.vectors) for other in others)])
    parts = np.split(places.astype(np.float32), ends[:-1])
    return CoverageMap(parts[0], tuple(parts[1:]), method)


def _principal(vectors: Floats, components: int) -> Floats:
    from sklearn.decomposition import PCA

    return np.asarray(PCA(components, random_state=0).fit_transform(vectors), np.float32)


def _tsne(vectors: Floats) -> tuple[Any, str]:
    import warnings

    from openTSNE import TSNE

    perplexity = float(min(30, max(5, (len(vectors) - 1) // 4)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about versions of the libraries below it
        places = TSNE(
            perplexity=perplexity,
            initialization="pca",
            metric="euclidean",
            early_exaggeration_iter=_EARLY,
            n_iter=_LATER,
            n_jobs=processors(),
            random_state=SEED,
        ).fit(vectors)
    return np.asarray(
        places
    ), f"t-SNE (openTSNE, perplexity {perplexity:g}, seed {SEED}) of {vectors.shape[1]} components"
