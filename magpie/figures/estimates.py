"""Figures of a set of rows that know how much each row moved them, so that their noise can be told.

A figure of rows that were drawn by chance would have been another one with other rows. How far it would move when one
row is left out (the delete-one jackknife) says by how much: for any figure that does not ask for the order of rows, the
variance that follows is at least the true one on average (Efron and Stein, Annals of Statistics 9, 1981), also where a
figure of one row depends on others, as the distance to its nearest neighbour does. A difference that is called one is
then no noise; a small one may be missed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from magpie.neighbors.vectors import Distances, Mask, Positions
from magpie.text import words

Values = np.ndarray[Any, np.dtype[np.float64]]

NEIGHBORS = 10
"""How many neighbours tell how dense the space around a row is: K of NovelSum (arXiv 2502.17184)."""
DENSITY_POWER = 0.5
"""β of NovelSum: how much the density counts."""

_SMALLEST_DISTANCE = 1e-9  # the authors' own code adds it, so that copies do not divide by zero


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, and for each row its pull: by how much the figure would fall without the row; together they are 0.

    `at` are the rows it was taken of, positions in their set. `floor` is the least standard error: that of what few
    rows cannot show, such as a share of which no row was seen.
    """

    value: float
    pulls: Values
    at: Positions
    floor: float = 0.0

    @property
    def rows(self) -> int:
        """Of how many rows it was taken."""
        return len(self.at)

    @property
    def error(self) -> float:
        """The standard error."""
        n = self.rows
        spread = float(np.sqrt(np.sum(self.pulls**2) * n / (n - 1))) if n > 1 else float("inf")
        return max(spread, self.floor)


def mean(values: Values, at: Positions) -> Estimate:
    """The mean of the values, one for each row in `at`."""
    middle = float(values.mean())
    return Estimate(middle, (values - middle) / len(values), at)


def share(hits: Mask, at: Positions) -> Estimate:
    """The share of rows that are hits. Its error is never below that of one more hit and one more miss."""
    estimate = mean(hits.astype(np.float64), at)
    n = len(hits)
    likely = (estimate.value * n + 1) / (n + 2)  # Agresti and Coull, American Statistician 52, 1998
    return Estimate(estimate.value, estimate.pulls, at, float(np.sqrt(likely * (1 - likely) / (n + 2))))


def entropy(values: Sequence[str], at: Positions) -> Estimate:
    """The entropy of the values in bits, with Miller and Madow's correction for how few rows there are (1955).

    0 where all are the same, log2(k) where k values are equally frequent.
    """
    names, kind, counts = np.unique(np.asarray(values, dtype=object), return_inverse=True, return_counts=True)
    n = len(values)

    def of(counts: Values, rows: int) -> float:
        held = counts[counts > 0]
        shares = held / rows
        return float((-(shares * np.log(shares)).sum() + (len(held) - 1) / (2 * rows)) / np.log(2))

    whole = of(counts.astype(np.float64), n)
    without = np.empty(len(names))
    for number in range(len(names)):  # all rows of one value pull alike
        fewer = counts.astype(np.float64)
        fewer[number] -= 1
        without[number] = of(fewer, n - 1) if n > 1 else whole
    # Where the values are equally frequent, the first derivative is zero and the entropy moves like a chi-square.
    floor = float(np.sqrt((len(names) - 1) / 2) / n / np.log(2))
    return _jackknife(whole, without[kind], at, floor)


def distinct(texts: Sequence[str], size: int, at: Positions) -> Estimate:
    """Distinct-n (Li et al., 2016): how many different runs of `size` words there are, over how many there are.

    It falls with the number of rows: only sets of equally many rows may be compared.
    """
    grams = [
        Counter(zip(*(held[first:] for first in range(size)), strict=False)) for held in map(words, texts)
    ]
    return distinct_of(grams, at)


def distinct_of(grams: Sequence[Counter[Any]], at: Positions) -> Estimate:
    """How many different things the rows hold, over how many they hold. It falls with the number of rows."""
    everywhere: Counter[Any] = Counter()
    rows_with: Counter[Any] = Counter()
    for row in grams:
        everywhere.update(row)
        rows_with.update(row.keys())
    total, different = everywhere.total(), len(everywhere)
    if not total:
        return Estimate(0.0, np.zeros(len(grams)), at)
    own = np.array([sum(rows_with[gram] == 1 for gram in row) for row in grams], np.float64)
    held = np.array([row.total() for row in grams], np.float64)
    without = (different - own) / np.maximum(total - held, 1)
    return _jackknife(different / total, without, at)


def nearest(distances: Distances, at: Positions) -> Estimate:
    """The mean squared distance of a row to its nearest other, from the table of all distances."""
    table = _without_diagonal(distances)
    order = np.argpartition(table, 1, axis=1)[:, :2]
    pair = np.take_along_axis(table, order, axis=1)
    first = np.where(pair[:, 0] <= pair[:, 1], 0, 1)
    rows = np.arange(len(table))
    nearest_of, least, second = order[rows, first], pair[rows, first], pair[rows, 1 - first]
    n = len(table)
    # Without a row, those that had it as their nearest have their second nearest.
    more = np.bincount(nearest_of, weights=second - least, minlength=n)
    without = (least.sum() - least + more) / (n - 1)
    return _jackknife(float(least.mean()), without, at)


def repeats(distances: Distances, threshold: float, at: Positions) -> Estimate:
    """The share of rows that have another one nearer than `threshold`."""
    near = _without_diagonal(distances) < threshold
    others = near.sum(axis=1)
    hits = others > 0
    n = len(hits)
    # Without a row, those of which it was the only near one have none.
    lonely = near[:, others == 1].sum(axis=1)
    without = (hits.sum() - hits - lonely) / (n - 1)
    floor = share(hits, at).floor
    return _jackknife(float(hits.mean()), without, at, floor)


def novel_sum(distances: Distances, density: Values, at: Positions) -> Estimate:
    """NovelSum (Yang et al., ACL 2025, arXiv 2502.17184): the mean novelty of a row, from the table of all distances.

    The novelty of row i is the mean of its cosine distances d(i, j) to the rows of the set, each times the density
    around it to the power β = 0.5, and weighted by 1 / π(j), where π(j) is the place of j among the rows by distance
    from i: near rows count most, so that a set with near copies is not novel however far its ends are apart. A distance
    counts for more where the space holds much, since there is more to tell apart. This is the form of the authors' code
    (α = 1, K = 10; the row itself has place 1 and distance 0; the density is that around i; the mean and not the sum,
    which would grow with the set). `distances` are squared distances of unit vectors: twice the cosine distances.
    """
    n = len(distances)
    cosine = distances / 2
    np.fill_diagonal(cosine, -1)  # of copies, the row itself comes first
    order = np.argsort(cosine, axis=1, kind="stable")
    np.fill_diagonal(cosine, 0)
    ordered = np.take_along_axis(cosine, order, axis=1)
    places = np.arange(1, n + 1)
    all_weights = float((1 / places).sum())
    weight = density**DENSITY_POWER
    novelty = weight * (ordered @ (1 / places)) / all_weights
    # Without row j, the rows that come behind it are one place nearer.
    before = np.cumsum(ordered / places, axis=1)[:, :-1]
    nearer = ordered[:, 1:] / places[:-1]
    behind = nearer.sum(axis=1, keepdims=True) - np.cumsum(nearer, axis=1)
    left = np.zeros((n, n))
    np.put_along_axis(left, order[:, 1:], before + behind, axis=1)
    left *= (weight / (all_weights - 1 / n))[:, None]
    return _jackknife(float(novelty.mean()), left.sum(axis=0) / (n - 1), at)


def densities(to_reference: Distances) -> Values:
    """The density around each row: 1 over the mean squared distance to its nearest rows of a reference set.

    `to_reference` (rows, reference) are squared distances. As in the authors' code, the nearest one is left out: it is
    the row itself, since the reference holds the sets that are measured.
    """
    most = min(NEIGHBORS + 1, to_reference.shape[1])
    near = np.sort(np.partition(to_reference, most - 1, axis=1)[:, :most], axis=1)[:, 1:]
    return 1 / (near.mean(axis=1) + _SMALLEST_DISTANCE) if most > 1 else np.ones(len(to_reference))


def _without_diagonal(distances: Distances) -> Distances:
    table = distances.copy()
    np.fill_diagonal(table, np.inf)
    return table


def _jackknife(value: float, without: Values, at: Positions, floor: float = 0.0) -> Estimate:
    """The estimate, of what it would be without each row."""
    n = len(without)
    pulls = (n - 1) / n * (value - without)
    return Estimate(value, pulls - pulls.mean(), at, floor)
