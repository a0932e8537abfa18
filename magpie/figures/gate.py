"""What a gate looks at: a few figures of the report, of the rows that a run has so far, each beside its bound."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from magpie.figures.counts import CUT, entropy, openings
from magpie.figures.report_rows import ReportRows, rows_before
from magpie.figures.topics import topics
from magpie.figures.vectors import Sampled, sampled
from magpie.recipe import Gate
from magpie.runs.run import Run, RunStep

_FEWEST_VECTORS = 20
_APART = 0.25
"""How much more alike the rows of a topic must be than a row of it and another. A report warns at less; to pause a
build is dearer, and vectors by rule, as the scripted engine has them, reach 0.17 by chance."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A measure beside its bound; None is a value that cannot be told. `what` says it in words."""

    measure: str
    value: float | None
    bound: float
    what: str
    least: bool = False
    """Whether the bound is the least that the value may be, and not the most."""

    @property
    def is_beyond(self) -> bool:
        """Whether the value is known and on the wrong side of its bound."""
        if self.value is None:
            return False
        return self.value < self.bound if self.least else self.value > self.bound

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {**asdict(self), "value": None if self.value is None else round(self.value, 4)}


@dataclass(frozen=True, slots=True)
class Looked:
    """What a gate saw: how many rows of the shards were still in, and the findings; none where there were too few."""

    rows: int
    findings: tuple[Finding, ...]

    @property
    def beyond(self) -> tuple[Finding, ...]:
        """What is on the wrong side of its bound."""
        return tuple(finding for finding in self.findings if finding.is_beyond)


def look(run: Run, gate: Gate, *, shards: int, before: RunStep) -> Looked:
    """Measure the first `shards` of a run, which have been through every step before `before`.

    Vectors are those that the run stored, or else are made of the words: no model is loaded. Raises DamagedShardError.
    """
    rows = rows_before(run, before, shards)
    kept = int(rows.kept.sum())
    if kept < gate.fewest_rows:
        # What is rejected can be counted all the same, and may be why there are so few.
        return Looked(kept, tuple(_rejected(rows, gate)) if len(rows.kept) >= gate.fewest_rows else ())
    sample = sampled(rows)
    return Looked(kept, (*_about(rows, sample, gate), *_rejected(rows, gate)))


def _about(rows: ReportRows, sample: Sampled | None, gate: Gate) -> Iterator[Finding]:
    if gate.topic is not None:
        found = topics(sample)
        # A topic that hardly differs from the others is none.
        told = found is not None and found.largest.apart >= _APART
        share = found.largest.share if found is not None and told else None
        name = found.largest.name if found is not None and told else "no topic stands out"
        yield Finding("topic", share, gate.topic, f"of the rows are about one topic: {name}")
    if gate.opening is not None:
        first = next(iter(openings(rows, 1)), None)
        words = "" if first is None else f": “{first.words} ...”"
        share = None if first is None else first.share
        yield Finding("opening", share, gate.opening, f"of the rows begin with the same words{words}")
    if gate.entropy is not None and rows.has("steer_id"):
        for name, spread in _spreads(rows):
            yield Finding(
                "entropy", spread, gate.entropy, f"of the entropy that {name} could have is left", least=True
            )
    if gate.near_copies is not None:
        yield Finding("near_copies", _near(rows, sample), gate.near_copies, "of the rows are near copies")


def _spreads(rows: ReportRows) -> Iterator[tuple[str, float]]:
    """For each steering variable, the entropy of the rows that are in over its values, as a share of the most."""
    ids = rows.table["steer_id"].to_pylist()
    values: dict[str, dict[str, int]] = {}
    for steer_id, is_in in zip(ids, rows.kept.tolist(), strict=True):
        for part in (steer_id or "").split(";")[1:]:
            name, _, value = part.partition("=")
            counts = values.setdefault(name, {})
            counts[value] = counts.get(value, 0) + is_in
    for name, counts in values.items():
        # With few rows a value a row, entropy says how many rows there are.
        if len(counts) > 1 and sum(counts.values()) >= 2 * len(counts):
            yield name, entropy(list(counts.values())) / math.log2(len(counts))


def _near(rows: ReportRows, sample: Sampled | None) -> float | None:
    """The share of sampled rows that are near an earlier one of the sample, and those that dedup rejected already."""
    if sample is None or len(sample.positions) < _FEWEST_VECTORS:
        return None
    recipe = rows.recipe
    threshold = 0.05 if recipe is None or recipe.dedup is None else recipe.dedup.threshold
    near = _repeats(sample.vectors, threshold)
    # After dedup no near copy is among the rows that are in: those that it rejected are.
    rejected = _rejected_for(rows, "repeat_count")
    kept = int(rows.kept.sum())
    return (near * kept + rejected) / (kept + rejected)


def _repeats(vectors: np.ndarray[Any, Any], threshold: float) -> float:
    """The share of vectors that are nearer than the threshold to one before them."""
    repeats = 0
    for first in range(0, len(vectors), 1024):
        part = vectors[first : first + 1024]
        cosines = part @ vectors[: first + len(part)].T
        # Each is compared with those before it.
        earlier = np.arange(cosines.shape[1])[None, :] < (first + np.arange(len(part)))[:, None]
        repeats += int(((2 - 2 * cosines < threshold) & earlier).any(axis=1).sum())
    return repeats / len(vectors)


def _rejected(rows: ReportRows, gate: Gate) -> Iterator[Finding]:
    total = len(rows.kept)
    if gate.cut is not None and rows.has("instruct_finish_reason"):
        cut = rows.table["instruct_finish_reason"].to_pylist().count(CUT) / total
        yield Finding("cut", cut, gate.cut, "of the instructions were cut by length")
    if gate.language is not None:
        wrong = _rejected_for(rows, "language")
        yield Finding("language", wrong / total, gate.language, "of the rows are in another language")


def _rejected_for(rows: ReportRows, column: str) -> int:
    """How many rows the step rejected that adds this column."""
    step = None if rows.run is None else rows.run.step_adding(column)
    if step is None:
        return 0
    reasons = rows.table["rejected"].to_pylist()
    return sum(reason is not None and reason.startswith(f"{step.name}: ") for reason in reasons)
