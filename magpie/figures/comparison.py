"""Any two sets of rows beside each other, or more: what each is, what they share, and what differs beyond noise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from magpie.data.near import embedder_named
from magpie.data.vectors import vectors_of
from magpie.engines import find_engine
from magpie.errors import RunError
from magpie.figures.bootstrap import Difference, differences, interval
from magpie.figures.comparison_rows import VALID, VALUES, Facts, SetRows, read_set
from magpie.figures.comparison_texts import HAS_PAIR, SIZED, of_texts
from magpie.figures.diversity import MOST_ROWS, THRESHOLD, diversities, nearest_distances
from magpie.figures.estimates import Estimate, distinct, entropy, mean, share
from magpie.neighbors.vectors import (
    Floats,
    Mask,
    Positions,
    ProgressCallback,
    UnitVectors,
    no_progress,
)
from magpie.recipe import Model
from magpie.runs.run import Run
from magpie.text import folded

COVERED = 0.6
"""Squared distance below which a row of one set is covered by one of another: cosine 0.7, about the same topic."""
SAMPLE = 5_000
EMBEDDER = "demo-embedder"

_MOST_VALUES = 12


@dataclass(frozen=True, slots=True)
class Side:
    """A figure of one set, with its own 95 % interval; `rows` it was taken of."""

    value: float
    low: float | None
    high: float | None
    rows: int


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of all sets: `sides` in their order, None where a set lacks it, and the differences from the first.

    `is_share` says that it is a share of rows, between 0 and 1. `column` is the column whose `value` it is the share
    of; both are "" for other figures. `sized` says that it depends on the number of rows, so that equally many were
    taken of each set.
    """

    name: str
    sides: tuple[Side | None, ...]
    differences: tuple[Difference | None, ...]
    is_share: bool = False
    sized: bool = False
    column: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class Across:
    """How much of one set is in another, as shares of the rows of `of`, out of the `rows` that were looked at.

    `same` have the very instruction, `near` one nearer than the threshold of copies, `covered` one about the same.
    The last two are None without an embedder.
    """

    of: str
    by: str
    rows: int
    same: float
    near: float | None
    covered: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Sets compared with the first of them. All intervals of `figures`' differences hold together at 95 %.

    Figures that depend on the number of rows are of `drawn` rows of each set, those of verbs of `parsed` ones.
    """

    sets: tuple[Facts, ...]
    figures: tuple[Figure, ...]
    across: tuple[Across, ...]
    embedder: str | None
    threshold: float
    covers: float
    sample: int
    drawn: int
    parsed: int
    seed: int

    @property
    def findings(self) -> tuple[Figure, ...]:
        """The figures that differ beyond noise in some set."""
        return tuple(
            figure for figure in self.figures if any(each and each.differs for each in figure.differences)
        )

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON can hold it."""
        content = asdict(self)
        for written, figure in zip(content["figures"], self.figures, strict=True):
            for entry, difference in zip(written["differences"], figure.differences, strict=True):
                if entry is not None and difference is not None:
                    entry["differs"] = difference.differs
        return content


def compare_sets(
    sources: Sequence[Run | str | Path],
    *,
    embedder: str | None = None,
    threshold: float = THRESHOLD,
    covers: float = COVERED,
    sample: int = SAMPLE,
    seed: int = 0,
    price: float | None = None,
    with_vectors: bool = True,
    with_verbs: bool = True,
    on_progress: ProgressCallback = no_progress,
) -> Comparison:
    """Compare sets with the first of them.

    At most `sample` rows of each are embedded, drawn by `seed`. Figures that depend on the number of rows are taken of
    equally many of each set, at most 2,000. `embedder` is by default that of the runs, where all sets are runs with
    vectors of one model, and else the embedded one. Raises RunError, ModelError, DamagedShardError.
    """
    if len(sources) < 2:
        raise RunError("there is nothing to compare: give two sets or more")
    sets = []
    for number, source in enumerate(sources):
        on_progress("reading", number, len(sources))
        sets.append(read_set(source, price=price))
    for each in sets:
        if not each.instructions:
            raise RunError(f"{each.dataset.place} holds no row; there is nothing to compare")
    samples = [_sample(each, sample, seed) for each in sets]
    model = _embedder(sets, embedder) if with_vectors else None
    units = (
        None
        if model is None
        else [_units(*pair, model, on_progress) for pair in zip(sets, samples, strict=True)]
    )
    drawn = min(MOST_ROWS, *(len(at) for at in samples))
    estimates = [_estimates(each, at[:drawn]) for each, at in zip(sets, samples, strict=True)]
    if units is not None and drawn > 1:
        for held, more in zip(
            estimates, _of_vectors(units, samples, drawn, threshold, on_progress), strict=True
        ):
            held.update(more)
    parsed, of_all = of_texts(sets, samples, drawn, on_progress, with_verbs=with_verbs)
    for held, more in zip(estimates, of_all, strict=True):
        held.update(more)
    figures = _figures(sets, estimates, seed)
    across = _across(sets, samples, units, (threshold, covers), on_progress)
    facts = tuple(each.facts for each in _renamed(sets))
    name = None if model is None else find_engine(model.engine).credited(model)
    return Comparison(facts, figures, across, name, threshold, covers, sample, drawn, parsed, seed)


def _sample(rows: SetRows, most: int, seed: int) -> Positions:
    """Positions of rows with an instruction, in an order that the seed decides."""
    held = np.flatnonzero([bool(text) for text in rows.instructions])
    return np.random.default_rng(seed).permutation(held)[:most]


def _renamed(sets: Sequence[SetRows]) -> Sequence[SetRows]:
    """The sets, named by their places where two have one name."""
    names = Counter(each.facts.name for each in sets)
    places = Counter(each.facts.place for each in sets)
    for number, each in enumerate(sets, start=1):
        facts = asdict(each.facts)
        if names[each.facts.name] > 1:
            facts["name"] = (
                each.facts.place if places[each.facts.place] == 1 else f"{each.facts.name} ({number})"
            )
        each.facts = Facts(**facts)
    return sets


def _embedder(sets: Sequence[SetRows], named: str | None) -> Model:
    """The model whose vectors are compared."""
    if named is not None:
        return embedder_named(named)
    own = [_own_embedder(each) for each in sets]
    first = own[0]
    alike = first is not None and all(
        each is not None and _identity(each) == _identity(first) for each in own
    )
    return first if alike and first is not None else embedder_named(EMBEDDER)


def _own_embedder(rows: SetRows) -> Model | None:
    """The model of the vectors that a run has."""
    step = None if rows.run is None else rows.run.step_adding("embedding")
    if rows.run is None or step is None or step.step.uses is None:
        return None
    return rows.run.recipe.model(step.step.uses.role)


def _identity(model: Model) -> tuple[str, str | None]:
    if not find_engine(model.engine).capabilities.loads_files:
        return "scripted", None
    return model.model, model.revision


def _units(rows: SetRows, at: Positions, model: Model, on_progress: ProgressCallback) -> Floats:
    """The vectors of the rows at these positions, of length 1."""
    own = _own_embedder(rows)
    if own is not None and _identity(own) == _identity(model):
        rising = np.sort(at)
        vectors = np.concatenate(list(rows.embeddings(rising)))
        vectors = vectors[np.searchsorted(rising, at)]
    else:
        vectors = vectors_of([rows.instructions[each] for each in at], model, on_progress)
    return UnitVectors.of(vectors)[slice(None)]


def _estimates(rows: SetRows, drawn: Positions) -> dict[tuple[str, str], Estimate]:
    """The figures that need no vectors, by name and value."""
    found: dict[tuple[str, str], Estimate] = {}
    for name, numbers in rows.numbers.items():
        at = np.flatnonzero(np.isfinite(numbers))
        if len(at):
            found[name, ""] = share(numbers[at] > 0, at) if name == VALID else mean(numbers[at], at)
    for name in VALUES:
        held = rows.values[name]
        at = np.array([number for number, value in enumerate(held) if value is not None], np.int64)
        if len(at):
            found[f"entropy of {name}", ""] = entropy([held[number] or "" for number in at], at)
    texts = [rows.instructions[each] for each in drawn]
    for size in (1, 2):
        found[f"distinct-{size}", ""] = distinct(texts, size, drawn)
    return found


def _of_vectors(
    units: Sequence[Floats],
    samples: Sequence[Positions],
    drawn: int,
    threshold: float,
    on_progress: ProgressCallback,
) -> list[dict[tuple[str, str], Estimate]]:
    """The figures of the vectors of the rows drawn, set by set."""
    parts, positions = [held[:drawn] for held in units], [sample[:drawn] for sample in samples]
    return [
        {
            ("near copies within", ""): found.near,
            ("distance to nearest", ""): found.nearest,
            ("NovelSum", ""): found.novel_sum,
        }
        for found in diversities(parts, positions, threshold, on_progress)
    ]


_SIZED_FIGURES = {
    "distinct-1", "distinct-2", "near copies within", "distance to nearest", "NovelSum", *SIZED,
}  # fmt: skip
_SHARES = {VALID, HAS_PAIR, "near copies within"}


def _figures(
    sets: Sequence[SetRows], estimates: list[dict[tuple[str, str], Estimate]], seed: int
) -> tuple[Figure, ...]:
    for column in VALUES:
        for value in _values(sets, column):
            for each, held in zip(sets, estimates, strict=True):
                own = each.values[column]
                at = np.array([number for number, value_ in enumerate(own) if value_ is not None], np.int64)
                if len(at):
                    hits = np.array([own[number] == value for number in at])
                    held[column, value] = share(hits, at)
    keys = list(dict.fromkeys(key for held in estimates for key in held))
    keys.sort(key=lambda key: bool(key[1]))  # shares of values last
    first, *others = ([held.get(key) for key in keys] for held in estimates)
    rows = [len(each.instructions) for each in sets]
    found = differences(first, others, rows, seed)
    return tuple(
        Figure(
            name=f"{name}: {value}" if value else name,
            sides=tuple(_side(held.get((name, value))) for held in estimates),
            differences=tuple(of_other[number] for of_other in found),
            is_share=bool(value) or name in _SHARES,
            sized=name in _SIZED_FIGURES,
            column=name if value else "",
            value=value,
        )
        for number, (name, value) in enumerate(keys)
    )


def _values(sets: Sequence[SetRows], column: str) -> list[str]:
    """The most frequent values of a column, over all sets that have it."""
    counts: Counter[str] = Counter()
    for each in sets:
        own = Counter(value for value in each.values[column] if value is not None)
        total = own.total()
        counts.update({value: count / total for value, count in own.items()})
    return [value for value, _ in counts.most_common(_MOST_VALUES)] if len(counts) > 1 else []


def _side(estimate: Estimate | None) -> Side | None:
    if estimate is None:
        return None
    low, high = interval(estimate) or (None, None)
    return Side(estimate.value, low, high, estimate.rows)


def _across(
    sets: Sequence[SetRows],
    samples: Sequence[Positions],
    units: Sequence[Floats] | None,
    limits: tuple[float, float],
    on_progress: ProgressCallback,
) -> tuple[Across, ...]:
    """How much of each set is in each other one; `limits` are the distances of near and of covered rows."""
    held = [{folded(text) for text in each.instructions if text} for each in sets]
    found: list[Across] = []
    for one, two in permutations(range(len(sets)), 2):
        on_progress("comparing across", len(found), len(sets) * (len(sets) - 1))
        texts = [sets[one].instructions[each] for each in samples[one]]
        same = np.array([folded(text) in held[two] for text in texts], bool)
        shares: list[float | None] = [None, None]
        if units is not None:
            least = nearest_distances(units[one], units[two])
            # The very instruction may be of a row of the other set that was not drawn.
            shares = [_share(same | (least < limit)) for limit in limits]
        names = sets[one].facts.name, sets[two].facts.name
        found.append(Across(*names, len(texts), _share(same), *shares))
    return tuple(found)


def _share(hits: Mask) -> float:
    return float(hits.mean()) if len(hits) else 0.0
