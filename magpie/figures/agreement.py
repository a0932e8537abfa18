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
    """The agreement on one tag over `rows`: those with two answers or more, of 100,000 at most.

    `judges` are the roles compared: two, each with the tag it gave, or one with itself, by its votes. Either way a row
    has `times` labels, and `lost` of them are no answers. `unanimous` is the share of rows on which all answers are
    equal. `alpha` is Krippendorff's, ordinal for difficulty and quality, nominal for the category. Of two labels a row,
    over the rows with both, `kappa` is Cohen's, to which every disagreement is the same, and `weighted_kappa` is his
    with quadratic weights, to which "good" is nearer to "average" than to "poor": None for the category, which has no
    order. `pairs` then counts, under each label of the first, what the second said.

    1 is full agreement and 0 what chance would give; None where every answer is the same label, which chance explains
    as well.
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
    found: list[Agreement] = []
    for first, second in combinations(judges, 2):
        others = {label.question: label for label in second.step.labels}
        labels = [(label, others[label.question]) for label in first.step.labels if label.question in others]
        columns = _columns(
            run,
            [
                (first, first.step.labels[0].asked, [mine.column for mine, _ in labels]),
                (second, second.step.labels[0].asked, [theirs.column for _, theirs in labels]),
            ],
        )
        for mine, theirs in labels:
            answers = list(zip(columns[mine.column], columns[theirs.column], strict=True))
            found.append(measure_agreement(mine, answers, judges=(_role(first), _role(second)), times=2))
    for judge in judges:
        votes = {label.votes: label for label in judge.step.labels if label.votes is not None}
        if votes:
            columns = _columns(run, [(judge, judge.step.labels[0].asked, list(votes))])
            for name, label in votes.items():
                found.append(
                    measure_agreement(label, columns[name], judges=(_role(judge),), times=label.times)
                )
    return tuple(found)


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
    place = {value: number for number, value in enumerate(label.values)}
    counts = np.zeros((len(votes), len(place)), dtype=np.int64)
    for row, given in enumerate(votes):
        for value in given:
            if value is not None:
                counts[row, place[value]] += 1
    answers = counts.sum(axis=1)
    counts = counts[answers >= 2]
    both = [(given[0], given[1]) for given in votes if times == 2 and None not in given]
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
    """`counts` are int64, (rows, labels): how many votes each label has."""
    if (counts.sum(axis=0) > 0).sum() < 2:
        return None
    import krippendorff

    level: Literal["ordinal", "nominal"] = "ordinal" if label.ordered else "nominal"
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement=level))


def _kappa(
    both: Sequence[tuple[str | None, ...]], label: Label, *, weights: str | None = None
) -> float | None:
    if len({value for pair in both for value in pair}) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    first, second = zip(*both, strict=True)
    return float(cohen_kappa_score(first, second, labels=list(label.values), weights=weights))


def _pairs(both: Sequence[tuple[str | None, ...]], label: Label) -> dict[str, dict[str, int]]:
    """How often the first said one label and the second another, in the labels' order; what never was is left out."""
    counts = Counter(both)
    rows = {
        first: {second: counts[first, second] for second in label.values if counts[first, second]}
        for first in label.values
    }
    return {first: row for first, row in rows.items() if row}
