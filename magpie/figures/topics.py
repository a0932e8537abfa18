"""What a dataset is about: its instructions in groups of one topic each, and how much of it the largest takes.

k-means alone would cut a topic that fills a third of a dataset into many groups. So groups whose rows are much more
alike than two rows of the dataset usually are, on average, are put together again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from magpie.figures.counts import entropy
from magpie.figures.plain_words import GRAMMAR
from magpie.figures.report_rows import SEED
from magpie.figures.vectors import Floats, Sampled
from magpie.text import words

FEWEST_ROWS = 100
"""Of fewer rows no topics are told: any group would be chance."""
COLLAPSED = 0.25
"""A topic with this share of the rows, or more, is worth a warning."""
CLEARLY_APART = 0.15
"""Rows that hardly differ from the others are no topic, be they ever so many: where no row is like another."""
SAME_TOPIC = 0.16
"""Two groups are of one topic when the mean cosine of their rows is this far above the usual one, of the way to 1."""

_MOST_GROUPS = 60
_ROUNDS = 25
_WORDS = 6  # that name a topic
_WORDS_READ = 60  # of each instruction: what it is about is said early
_PAIRS = 20_000  # that are drawn, to see how alike rows usually are
_OTHER = "(no word of its own)"

Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic by its most typical words; its rows in the sample, their share, and the most typical row's position."""

    words: tuple[str, ...]
    rows: int
    share: float
    typical: int
    apart: float
    """How much more alike its rows are, by their mean cosine, than a row of it and one of the others."""

    @property
    def name(self) -> str:
        """The words, on one line."""
        return ", ".join(self.words)


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of a sample, the largest first. `labels` has the number of its topic for each row of the sample."""

    topics: tuple[Topic, ...]
    labels: Labels
    rows: int
    of: int
    made_by: str

    @property
    def largest(self) -> Topic:
        """The topic with the most rows."""
        return self.topics[0]

    @property
    def collapsed(self) -> bool:
        """Whether the largest takes so much that somebody should look."""
        return self.largest.share >= COLLAPSED and self.largest.apart >= CLEARLY_APART

    @property
    def entropy(self) -> float:
        """How spread the rows are over the topics, in bits."""
        return entropy([topic.rows for topic in self.topics])


def topics(sample: Sampled | None) -> Topics | None:
    """The topics of a sample; None where it has fewer than FEWEST_ROWS rows."""
    if sample is None or len(sample.positions) < FEWEST_ROWS:
        return None
    vectors = sample.vectors
    labels = _groups(vectors, int(np.clip(len(vectors) / 40, 8, _MOST_GROUPS)))
    labels = _ranked(_joined(vectors, labels)[labels])
    counts = np.bincount(labels)
    names = _typical_words(sample.texts, labels)
    found = []
    for number, count in enumerate(counts):
        here = np.flatnonzero(labels == number)
        middle = vectors[here].mean(axis=0)
        typical = int(sample.positions[here[int(np.argmax(vectors[here] @ middle))]])
        rest = vectors[labels != number]
        others = float(middle @ rest.mean(axis=0)) if len(rest) else 0.0
        share, apart = float(count / len(labels)), float(middle @ middle) - others
        found.append(Topic(names[number], int(count), share, typical, apart))
    return Topics(tuple(found), labels, len(labels), sample.of, sample.made_by)


def _groups(vectors: Floats, groups: int) -> Labels:
    """k-means on the sphere: the group of each vector."""
    import faiss

    means = faiss.Kmeans(
        vectors.shape[1], groups, niter=_ROUNDS, seed=SEED, spherical=True, min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),
    )  # fmt: skip
    means.train(np.ascontiguousarray(vectors, np.float32))
    centres = np.asarray(means.centroids, np.float32)
    return np.asarray(np.argmax(vectors @ centres.T, axis=1), np.int64)


def _joined(vectors: Floats, labels: Labels) -> Labels:
    """The number of its topic for each group: the two that are most alike are put together, again and again."""
    sizes = np.bincount(labels).astype(np.float64)
    means = np.zeros((len(sizes), vectors.shape[1]))
    np.add.at(means, labels, vectors)
    means /= np.maximum(sizes, 1)[:, None]
    usual = _usual_cosine(vectors)
    topic = np.arange(len(sizes))
    # The product of two means is the mean cosine of a row of one with a row of the other.
    alike = means @ means.T
    alike[sizes == 0], alike[:, sizes == 0] = -np.inf, -np.inf
    np.fill_diagonal(alike, -np.inf)
    while alike.max() > usual + SAME_TOPIC * (1 - usual):
        one, other = divmod(int(alike.argmax()), len(sizes))
        both = sizes[one] + sizes[other]
        means[one] = (sizes[one] * means[one] + sizes[other] * means[other]) / both
        sizes[one], sizes[other] = both, 0
        topic[topic == other] = one
        alike[one] = alike[:, one] = np.where(sizes > 0, means @ means[one], -np.inf)
        alike[other] = alike[:, other] = alike[one, one] = -np.inf
    return topic


def _usual_cosine(vectors: Floats) -> float:
    """The cosine of two rows that have nothing to do with each other: the lower quartile of drawn pairs."""
    rng = np.random.default_rng(SEED)
    one, other = rng.integers(len(vectors), size=(2, _PAIRS))
    return float(np.percentile(np.einsum("ij,ij->i", vectors[one], vectors[other]), 25))


def _ranked(labels: Labels) -> Labels:
    """The labels numbered by their rows: 0 has the most."""
    counts = np.bincount(labels)
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    number = np.full(len(counts), -1, np.int64)
    number[order] = np.arange(len(order))
    return number[labels]


def _typical_words(texts: Sequence[str], labels: Labels) -> list[tuple[str, ...]]:
    """For each topic the words that stand in many of its rows and in few of the others: c-TF-IDF by rows."""
    everywhere: Counter[str] = Counter()
    inside: list[Counter[str]] = [Counter() for _ in range(int(labels.max()) + 1)]
    for text, label in zip(texts, labels, strict=True):
        seen = {word for word in words(text)[:_WORDS_READ] if word not in GRAMMAR and not word.isdigit()}
        everywhere.update(seen)
        inside[label].update(seen)
    sizes = np.bincount(labels)
    names = []
    for counts, size in zip(inside, sizes, strict=True):
        score = {
            word: count / size * np.log1p(count / size / (everywhere[word] / len(texts)))
            for word, count in counts.items()
            if count > 1 or size < 4
        }
        best = sorted(score, key=lambda word: (-score[word], word))[:_WORDS]
        names.append(tuple(best) or (_OTHER,))
    return names
