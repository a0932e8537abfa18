"""Figures with their noise, against plain definitions and brute force."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from magpie.figures.bootstrap import differences
from magpie.figures.estimates import (
    Estimate,
    densities,
    distinct,
    entropy,
    mean,
    nearest,
    novel_sum,
    repeats,
    share,
)

Table = np.ndarray
ROWS = 40


def unit_vectors(rows: int, seed: int, *, copies: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, 8)) + rng.normal(size=8)
    vectors[rows - copies :] = vectors[:copies]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def distances(vectors: Table, others: Table | None = None) -> Table:
    others = vectors if others is None else others
    return np.array([[((a - b) ** 2).sum() for b in others] for a in vectors])


def plain_novel_sum(vectors: Table, density: Table) -> float:
    """Word by word: each row's density-aware cosine distances, ranked, weighted by 1 / rank."""
    novelty = []
    for i, vector in enumerate(vectors):
        cosine = [0.0 if i == j else 1 - float(vector @ other) for j, other in enumerate(vectors)]
        ranked = sorted(cosine)
        weights = [1 / place for place in range(1, len(ranked) + 1)]
        total = sum(weight * d for weight, d in zip(weights, ranked, strict=True))
        novelty.append(density[i] ** 0.5 * total / sum(weights))
    return sum(novelty) / len(novelty)


def leave_one_out(value: Callable[[list[int]], float], rows: int) -> list[float]:
    """The pulls by brute force: the figure is computed anew without each row."""
    every = list(range(rows))
    pulls = np.array(
        [(rows - 1) / rows * (value(every) - value([j for j in every if j != i])) for i in every]
    )
    return list(pulls - pulls.mean())


def check(estimate: Estimate, value: Callable[[list[int]], float]) -> None:
    assert estimate.value == pytest.approx(value(list(range(estimate.rows))), abs=1e-9)
    assert list(estimate.pulls) == pytest.approx(leave_one_out(value, estimate.rows), abs=1e-9)


AT = np.arange(ROWS)
VECTORS = unit_vectors(ROWS, 1, copies=6)
WORDS = ["a red house", "a red car", "the blue sea by night", "go", "a red house"]


def test_a_mean_and_a_share() -> None:
    values = np.random.default_rng(0).normal(size=ROWS)
    check(mean(values, AT), lambda rows: float(values[rows].mean()))
    assert mean(values, AT).error == pytest.approx(values.std(ddof=1) / math.sqrt(ROWS))
    check(share(values > 0, AT), lambda rows: float((values[rows] > 0).mean()))
    never = share(np.zeros(ROWS, bool), AT)
    assert never.value == 0 and never.error > 0.01  # not seen in 40 rows is not never


def test_entropy_in_bits_with_its_correction() -> None:
    values = ["a"] * 20 + ["b"] * 12 + ["c"] * 7 + ["d"]

    def plain(rows: list[int]) -> float:
        held = [values[row] for row in rows]
        shares = [held.count(name) / len(held) for name in set(held)]
        return sum(-p * math.log2(p) for p in shares) + (len(shares) - 1) / (2 * len(held)) / math.log(2)

    check(entropy(values, AT), plain)
    assert entropy(["x"] * 9, np.arange(9)).value == 0


def test_distinct_n_by_its_definition() -> None:
    texts = WORDS * 4 + ["something else here"]

    def plain(rows: list[int]) -> float:
        pairs = [
            pair for row in rows for pair in zip(texts[row].split(), texts[row].split()[1:], strict=False)
        ]
        return len(set(pairs)) / len(pairs)

    check(distinct(texts, 2, np.arange(len(texts))), plain)
    assert distinct(["one", "two"], 2, np.arange(2)).value == 0  # no pair of words at all


def test_nearest_and_repeats_by_brute_force() -> None:
    table = distances(VECTORS)

    def least(rows: list[int]) -> list[float]:
        return [min(table[i, j] for j in rows if j != i) for i in rows]

    check(nearest(table, AT), lambda rows: float(np.mean(least(rows))))
    check(repeats(table, 0.05, AT), lambda rows: float(np.mean([d < 0.05 for d in least(rows)])))
    assert repeats(table, 0.05, AT).value >= 12 / ROWS


def test_novel_sum_is_that_of_the_paper() -> None:
    reference = unit_vectors(60, 7)
    density = densities(distances(VECTORS, np.vstack([VECTORS, reference])))
    ordered = np.sort(distances(VECTORS, np.vstack([VECTORS, reference])), axis=1)
    assert density == pytest.approx(1 / (ordered[:, 1:11].mean(axis=1) + 1e-9))
    estimate = novel_sum(distances(VECTORS), density, AT)
    check(estimate, lambda rows: plain_novel_sum(VECTORS[rows], density[rows]))
    copied = np.vstack([VECTORS[:20], VECTORS[:20]])
    again = densities(distances(copied, np.vstack([VECTORS, reference])))
    assert novel_sum(distances(copied), again, AT).value < estimate.value  # copies are nothing novel


def of_numbers(values: Table) -> list[Estimate | None]:
    at = np.arange(len(values))
    return [mean(values, at), share(values > 1, at), entropy([str(int(v)) for v in values], at)]


def test_noise_is_no_finding_and_a_shift_is_one() -> None:
    rng = np.random.default_rng(5)
    wrong = 0
    for seed in range(40):
        a, b = rng.normal(size=300), rng.normal(size=200)
        found = differences(of_numbers(a), [of_numbers(b)], [300, 200], seed)[0]
        wrong += any(each is not None and each.differs for each in found)
    assert wrong <= 5  # 2 of 40 are expected
    moved = differences(
        of_numbers(rng.normal(size=300)), [of_numbers(rng.normal(0.6, size=200))], [300, 200], 0
    )[0]
    assert moved[0] is not None and moved[0].differs and moved[0].low is not None and moved[0].low > 0


def test_equally_frequent_values_are_no_finding() -> None:
    """There the entropy has no slope: what a plain jackknife calls an error is next to nothing."""
    rng = np.random.default_rng(6)
    wrong = 0
    for seed in range(40):
        a, b = (entropy([str(v) for v in rng.integers(0, 12, size=n)], np.arange(n)) for n in (600, 300))
        found = differences([a], [[b]], [600, 300], seed)[0][0]
        wrong += found is not None and found.differs
    assert wrong <= 5


def test_few_rows_say_nothing_and_what_is_lacking_is_none() -> None:
    few, many = mean(np.zeros(5), np.arange(5)), mean(np.ones(100), np.arange(100))
    found = differences([few, None], [[many, many]], [5, 100], 0)[0]
    assert found[0] is not None and found[0].value == 1 and found[0].low is None and not found[0].differs
    assert found[1] is None
    sure = differences([mean(np.zeros(50), np.arange(50))], [[many]], [50, 100], 0)[0][0]
    assert sure is not None and sure.differs  # all of one and none of the other
