"""How well judges agree: two of them with each other, and one that votes with itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.errors import DamagedShardError
from magpie.plan.phases import PlannedStep
from magpie.runs.run import Run
from magpie.runs.shards import read_shard
from magpie.steps.tag import QUESTIONS, Question, TagStep, votes_column

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
    """Of the two judges on each tag, then of each judge with itself on each; over the shards that are tagged."""
    part = run.recipe.tag
    steps = [(planned, planned.step) for planned in run.plan.steps if isinstance(planned.step, TagStep)]
    if part is None:
        return ()
    roles = (part.model, *([part.second_judge] if part.second_judge is not None else []))
    labels = {QUESTIONS[tag].label: QUESTIONS[tag] for tag in part.tags}
    found: list[Agreement] = []
    if len(steps) > 1:
        given = [[f"{step.prefix}{label}" for label in labels] for _, step in steps]
        tags = _columns(run, [(planned, names) for (planned, _), names in zip(steps, given, strict=True)])
        for question, names in zip(labels.values(), zip(*given, strict=True), strict=True):
            pairs = list(zip(*(tags[name] for name in names), strict=True))
            found.append(compare(question, pairs, judges=roles, times=2))
    if part.times > 1:
        for role, (planned, step) in zip(roles, steps, strict=True):
            votes = _columns(run, [(planned, [f"{step.prefix}{votes_column(label)}" for label in labels])])
            found += [
                compare(question, ballots, judges=(role,), times=part.times)
                for question, ballots in zip(labels.values(), votes.values(), strict=True)
            ]
    return tuple(found)


def _columns(run: Run, wanted: Sequence[tuple[PlannedStep, list[str]]]) -> dict[str, list[Any]]:
    """The columns of the rows that every one of the steps asked its judge about, 100,000 at most."""
    columns: dict[str, list[Any]] = {name: [] for _, names in wanted for name in names}
    rows = 0
    for shard in range(run.plan.shards):
        if rows >= _MOST_ROWS:
            break
        for name, values in _shard(run, shard, wanted):
            columns[name] += values[: _MOST_ROWS - rows]
        rows = len(next(iter(columns.values())))
    return columns


def _shard(
    run: Run, shard: int, wanted: Sequence[tuple[PlannedStep, list[str]]]
) -> Iterator[tuple[str, list[Any]]]:
    """(column, values) of one shard; nothing where a step's file is not there, or not whole."""
    tables: list[pa.Table] = []
    asked: list[Any] = []
    for planned, names in wanted:
        path, tokens = run.shard_path(planned, shard), f"{planned.name}_tokens"
        if not path.is_file():
            return
        try:
            table = read_shard(path, [*names, tokens], check=False)
        except DamagedShardError:
            return  # status names it
        tables.append(table)
        asked.append(pc.is_valid(table[tokens]))
    by_all = reduce(pc.and_, asked)
    for table, (_, names) in zip(tables, wanted, strict=True):
        for name in names:
            yield name, table[name].filter(by_all).to_pylist()


def compare(question: Question, votes: Votes, *, judges: tuple[str, ...], times: int) -> Agreement:
    """The agreement of `times` labels on each row, null where there is no answer."""
    place = {label: at for at, label in enumerate(question.labels)}
    counts = np.zeros((len(votes), len(place)), dtype=np.int64)
    for row, given in enumerate(votes):
        for label in given:
            if label is not None:
                counts[row, place[label]] += 1
    answers = counts.sum(axis=1)
    counts = counts[answers >= 2]
    both = [(one[0], one[1]) for one in votes if times == 2 and None not in one]
    return Agreement(
        tag=question.label,
        judges=judges,
        times=times,
        rows=len(counts),
        lost=int((times - answers).sum()),
        unanimous=float((counts.max(axis=1) == counts.sum(axis=1)).mean()) if len(counts) else None,
        alpha=_alpha(counts, question),
        kappa=_kappa(both, question),
        weighted_kappa=_kappa(both, question, weights="quadratic") if question.ordered else None,
        pairs=_pairs(both, question) if times == 2 else None,
    )


def _alpha(counts: Any, question: Question) -> float | None:
    """`counts` are int64, (rows, labels): how many votes each label has."""
    if (counts.sum(axis=0) > 0).sum() < 2:
        return None
    import krippendorff

    level: Literal["ordinal", "nominal"] = "ordinal" if question.ordered else "nominal"
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement=level))


def _kappa(
    both: Sequence[tuple[str | None, ...]], question: Question, *, weights: str | None = None
) -> float | None:
    if len({label for pair in both for label in pair}) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    first, second = zip(*both, strict=True)
    return float(cohen_kappa_score(first, second, labels=list(question.labels), weights=weights))


def _pairs(both: Sequence[tuple[str | None, ...]], question: Question) -> dict[str, dict[str, int]]:
    """How often the first said one label and the second another, in the labels' order; what never was is left out."""
    counts = Counter(both)
    rows = {
        one: {other: counts[one, other] for other in question.labels if counts[one, other]}
        for one in question.labels
    }
    return {one: row for one, row in rows.items() if row}
