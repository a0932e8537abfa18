"""How well a judge agrees with itself: its votes on each tag, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from magpie.errors import DamagedShardError
from magpie.runs.run import Run
from magpie.runs.store import read_shard
from magpie.steps.tag import QUESTIONS, TagStep, votes_column

_MOST_ROWS = 100_000

Votes = Sequence[Sequence[str | None]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement of `times` votes on one tag, over `rows`: those with two answers or more, 100,000 at most.

    `lost` votes on these and other rows are no answers. `unanimous` is the share of rows on which all answers are
    equal. `alpha` is Krippendorff's, ordinal for difficulty and quality, nominal for the category; `kappa` is Cohen's,
    for two votes, over the rows with both. 1 is full agreement and 0 what chance would give; None where every answer
    is the same label, which chance explains as well.
    """

    tag: str
    times: int
    rows: int
    lost: int
    unanimous: float | None
    alpha: float | None
    kappa: float | None


def agreement(run: Run) -> tuple[Agreement, ...]:
    """The agreement on each tag that was asked for more than once, over the shards that are tagged."""
    planned = next((one for one in run.plan.steps if isinstance(one.step, TagStep)), None)
    if planned is None or not isinstance(planned.step, TagStep) or planned.step.part.times == 1:
        return ()
    columns = [votes_column(QUESTIONS[tag].label) for tag in planned.step.tags]
    votes: dict[str, list[Sequence[str | None]]] = {name: [] for name in columns}
    for shard in range(run.plan.shards):
        path = run.shard_path(planned, shard)
        if len(votes[columns[0]]) >= _MOST_ROWS or not path.is_file():
            continue
        try:
            table = read_shard(path, columns, check=False)
        except DamagedShardError:
            continue  # status names it
        for name in columns:
            votes[name] += table[name].drop_null().to_pylist()
    return tuple(
        compare(
            QUESTIONS[tag].label,
            votes[votes_column(QUESTIONS[tag].label)][:_MOST_ROWS],
            labels=QUESTIONS[tag].labels,
            times=planned.step.part.times,
            level="nominal" if tag == "category" else "ordinal",
        )
        for tag in planned.step.tags
    )


def compare(
    tag: str, votes: Votes, *, labels: Sequence[str], times: int, level: Literal["nominal", "ordinal"]
) -> Agreement:
    """The agreement of `times` votes on each row; `labels` are in their order, where they have one."""
    place = {label: at for at, label in enumerate(labels)}
    counts = np.zeros((len(votes), len(labels)), dtype=np.int64)
    for row, given in enumerate(votes):
        for label in given:
            if label is not None:
                counts[row, place[label]] += 1
    answers = counts.sum(axis=1)
    counts = counts[answers >= 2]
    both = [(one[0], one[1]) for one in votes if times == 2 and None not in one]
    return Agreement(
        tag=tag,
        times=times,
        rows=len(counts),
        lost=int((times - answers).sum()),
        unanimous=float((counts.max(axis=1) == counts.sum(axis=1)).mean()) if len(counts) else None,
        alpha=_alpha(counts, level),
        kappa=_kappa(both),
    )


def _alpha(counts: Any, level: Literal["nominal", "ordinal"]) -> float | None:
    """`counts` are int64, (rows, labels): how many votes each label has."""
    if (counts.sum(axis=0) > 0).sum() < 2:
        return None
    import krippendorff

    return float(krippendorff.alpha(value_counts=counts, level_of_measurement=level))


def _kappa(both: Sequence[tuple[str | None, str | None]]) -> float | None:
    if len({label for pair in both for label in pair}) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    first, second = zip(*both, strict=True)
    return float(cohen_kappa_score(first, second))
