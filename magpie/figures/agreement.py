"""How well judges agree: two of them with each other, and one that votes with itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.errors import DamagedShardError
from magpie.runs.run import Run, RunStep
from magpie.steps.base import Label

_MOST_ROWS = 100_000

Votes = Sequence[Sequence[str | None]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement on one tag over `rows`: those with two answers or more, at most 100,000.

    `judges` are the roles compared: two of them by their tags, or one with itself by its votes. A row has `times`
    labels. `lost` is how many labels of all rows are missing, and `unanimous` the share of rows with equal answers.

    `alpha` is Krippendorff's, ordinal for difficulty and quality, nominal for the category. With two labels a row, over
    the rows with both, `kappa` is Cohen's, in which every disagreement counts the same. `weighted_kappa` is Cohen's
    with quadratic weights, in which "good" is nearer to "average" than to "poor"; None for the category, which has no
    order. `pairs` counts for each label of the first judge the labels of the second.

    1 is full agreement, and 0 is the agreement of chance. The coefficients are None where all answers are the same
    label, since chance would give the same.
    """

    tag: str
    judges: tuple[str, ...]
    times: int
    rows: int
    lost: int
    unanimous: float | None
    alpha: float | None
    kappa: float | None
    weighted_kappa: float | None
    pairs: Mapping[str, Mapping[str, int]] | None


def agreement(run: Run) -> tuple[Agreement, ...]:
    """Of each two judges on each question, then of each judge with itself; over the shards that have been judged."""
    judges = [run_step for run_step in run.steps if run_step.step.labels]
    agreements: list[Agreement] = []
    for first, second in combinations(judges, 2):
        agreements += _between(run, first, second)
    for judge in judges:
        agreements += _with_itself(run, judge)
    return tuple(agreements)


def _between(run: Run, first: RunStep, second: RunStep) -> Iterator[Agreement]:
    """The agreement of two judges on each question that both were asked."""
    label_of_question = {label.question: label for label in second.step.labels}
    labels = [
        (label, label_of_question[label.question])
        for label in first.step.labels
        if label.question in label_of_question
    ]
    columns = _columns(
        run,
        [
            (first, first.step.labels[0].asked, [label.column for label, _ in labels]),
            (second, second.step.labels[0].asked, [label.column for _, label in labels]),
        ],
    )
    for label, other in labels:
        answers = list(zip(columns[label.column], columns[other.column], strict=True))
        yield measure_agreement(label, answers, judges=(_role(first), _role(second)), times=2)


def _with_itself(run: Run, judge: RunStep) -> Iterator[Agreement]:
    """The agreement of a judge's votes, on each question that it was asked several times."""
    labels = {label.votes: label for label in judge.step.labels if label.votes is not None}
    if not labels:
        return
    columns = _columns(run, [(judge, judge.step.labels[0].asked, list(labels))])
    for name, label in labels.items():
        yield measure_agreement(label, columns[name], judges=(_role(judge),), times=label.times)


def _role(run_step: RunStep) -> str:
    use = run_step.step.uses
    return run_step.name if use is None else use.role


Wanted = tuple["RunStep", str, list[str]]
"""A step, the column that is null in rows it was not asked about, and the columns to read of it."""


def _columns(run: Run, wanted: Sequence[Wanted]) -> dict[str, list[Any]]:
    """The columns of the rows that every one of the steps was asked about, 100,000 at most."""
    columns: dict[str, list[Any]] = {name: [] for _, _, names in wanted for name in names}
    rows = 0
    for shard in range(run.shards):
        if rows >= _MOST_ROWS:
            break
        for name, values in _shard(run, shard, wanted):
            columns[name] += values[: _MOST_ROWS - rows]
        rows = len(next(iter(columns.values()), []))
    return columns


def _shard(run: Run, shard: int, wanted: Sequence[Wanted]) -> Iterator[tuple[str, list[Any]]]:
    """(column, values) of one shard; nothing where a step's file is not there, or not whole."""
    tables: list[pa.Table] = []
    for run_step, asked, names in wanted:
        if not run.has_shard(run_step, shard):
            return
        try:
            tables.append(run.read(run_step, shard, [*names, asked], check=False))
        except DamagedShardError:
            return  # status names it
    by_all = reduce(
        pc.and_,
        (pc.is_valid(table[asked]) for table, (_, asked, _) in zip(tables, wanted, strict=True)),
    )
    for table, (_, _, names) in zip(tables, wanted, strict=True):
        for name in names:
            yield name, table[name].filter(by_all).to_pylist()


def measure_agreement(label: Label, votes: Votes, *, judges: tuple[str, ...], times: int) -> Agreement:
    """The agreement of `times` labels on each row, null where there is no answer."""
    number_of = {value: number for number, value in enumerate(label.values)}
    counts = np.zeros((len(votes), len(number_of)), dtype=np.int64)
    for row, votes_of_row in enumerate(votes):
        for value in votes_of_row:
            if value is not None:
                counts[row, number_of[value]] += 1
    answers = counts.sum(axis=1)
    counts = counts[answers >= 2]  # one answer agrees with nothing
    # Kappa is for exactly two labels a row; alpha takes any number, and rows from which some are missing.
    both = [
        (votes_of_row[0], votes_of_row[1])
        for votes_of_row in votes
        if times == 2 and None not in votes_of_row
    ]
    return Agreement(
        tag=label.question,
        judges=judges,
        times=times,
        rows=len(counts),
        lost=int((times - answers).sum()),
        unanimous=float((counts.max(axis=1) == counts.sum(axis=1)).mean()) if len(counts) else None,
        alpha=_alpha(counts, label),
        kappa=_kappa(both, label),
        weighted_kappa=_kappa(both, label, weights="quadratic") if label.ordered else None,
        pairs=_pairs(both, label) if times == 2 else None,
    )


def _alpha(counts: Any, label: Label) -> float | None:
    """Krippendorff's alpha; `counts` are int64, (rows, labels): how many votes each label has."""
    # With one label alone the formula is 0 / 0.
    if (counts.sum(axis=0) > 0).sum() < 2:
        return None
    import krippendorff

    level: Literal["ordinal", "nominal"] = "ordinal" if label.ordered else "nominal"
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement=level))


def _kappa(
    both: Sequence[tuple[str | None, ...]], label: Label, *, weights: str | None = None
) -> float | None:
    """Cohen's kappa of pairs of labels."""
    if len({value for pair in both for value in pair}) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    first, second = zip(*both, strict=True)
    return float(cohen_kappa_score(first, second, labels=list(label.values), weights=weights))


def _pairs(both: Sequence[tuple[str | None, ...]], label: Label) -> dict[str, dict[str, int]]:
    """For each label of the first judge how often the second gave each label, in their order, without zeros."""
    counts = Counter(both)
    rows = {
        first: {second: counts[first, second] for second in label.values if counts[first, second]}
        for first in label.values
    }
    return {first: row for first, row in rows.items() if row}
