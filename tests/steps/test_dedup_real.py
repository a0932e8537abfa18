"""4,000 real texts with planted likenesses: what dedup finds is what comparing every pair finds."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
from recording import run

from benchmarks.sentences import sentences
from magpie.engines.embedder import encode_all
from magpie.neighbors.exact import near_pairs
from magpie.neighbors.vectors import UnitVectors
from magpie.recipe import Dedup, Model
from magpie.steps.dedup import DedupStep

TEXTS, PLANTED, THRESHOLD = 4_000, 400, 0.05


def altered(text: str, draw: random.Random) -> str:
    """The text as somebody else might have written it: the same, in capitals, without its end, a word less."""
    words = text.split()
    dropped = draw.randrange(len(words))
    return draw.choice(
        [
            text,
            text.upper(),
            text.rstrip("."),
            " ".join(words[:dropped] + words[dropped + 1 :]),
            f"{text} Please.",
        ]
    )


def every_pair(units: np.ndarray) -> dict[tuple[int, int], float]:
    """By numpy on float32: all products, and the distance by subtraction of each pair that could be near enough."""
    found = {}
    for start in range(0, len(units), 1000):
        block = units[start : start + 1000]
        rows, columns = np.nonzero(block @ units.T > 1 - THRESHOLD / 2 - 1e-4)
        rows += start
        later = rows < columns
        i, j = rows[later], columns[later]
        distances = np.square(np.float64(units[i]) - np.float64(units[j])).sum(axis=1)
        near = distances < THRESHOLD
        found |= zip(zip(i[near].tolist(), j[near].tolist(), strict=True), distances[near], strict=True)
    return found


@pytest.mark.slow
def test_dedup_of_real_texts_is_that_of_brute_force() -> None:
    draw = random.Random(0)
    texts = sentences(TEXTS - PLANTED)
    assert len(texts) == TEXTS - PLANTED
    texts += [altered(draw.choice(texts), draw) for _ in range(PLANTED)]
    draw.shuffle(texts)
    stored = encode_all(Model(model="demo-embedder"), texts).astype(np.float16)
    units = UnitVectors.of(stored)
    expected = every_pair(units[:])
    assert len(expected) > PLANTED / 2

    pairs = [
        (i, j) for rows, others, _ in near_pairs(units, THRESHOLD) for i, j in zip(rows, others, strict=True)
    ]
    assert len(pairs) == len(set(pairs)) == len(expected)
    assert set(pairs) == set(expected)

    table = pa.table(
        {
            "id": [str(at) for at in range(TEXTS)],
            "index": pa.array(range(TEXTS), pa.int64()),
            "rejected": pa.nulls(TEXTS, pa.string()),
            "embedding": pa.array(list(stored), pa.list_(pa.float16())),
        }
    )
    repeat_of: dict[int, int] = {}
    for i, j in sorted(expected, key=lambda pair: (pair[1], pair[0])):
        if i not in repeat_of:
            repeat_of.setdefault(j, i)
    columns = run(DedupStep(Dedup(threshold=THRESHOLD)), table).to_pydict()
    assert {
        int(id): int(of) for id, of in zip(columns["id"], columns["duplicate_of"], strict=True) if of
    } == repeat_of
    counts = np.bincount(np.array(list(expected)).ravel(), minlength=TEXTS)
    assert columns["repeat_count"] == counts.tolist()
