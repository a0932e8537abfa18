"""How often each value stands in the columns that say what a row is, and how spread the values are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from magpie.figures.plain_words import GRAMMAR, TASKS
from magpie.figures.report_rows import TAGS, ReportRows
from magpie.text import words

CUT = "length"
"""The finish reason of a text that was cut."""

_LETTERS = 600  # of an instruction: what it is about is said early


@dataclass(frozen=True, slots=True)
class TagCounts:
    """How many rows have each value of a column: `kept` of those that are in, `every` of all. None is a null.

    In the order of the label where it has one, else the most frequent first.
    """

    column: str
    kept: Mapping[str | None, int]
    every: Mapping[str | None, int]

    @property
    def entropy(self) -> float:
        """How spread the kept rows are over the values, in bits; nulls are left out."""
        return entropy([count for value, count in self.kept.items() if value is not None])

    def share(self, value: str) -> float:
        """The share of the kept rows with an answer that have this value."""
        answered = sum(count for each, count in self.kept.items() if each is not None)
        return self.kept.get(value, 0) / answered if answered else 0.0


@dataclass(frozen=True, slots=True)
class Opening:
    """The first words that `rows` of the kept rows have in common, and their share of those."""

    words: str
    rows: int
    share: float


@dataclass(frozen=True, slots=True)
class Personal:
    """How many rows have each kind of personal data in a column: of those that are in, and of all."""

    column: str
    rows: int
    kept: Mapping[str, int]
    every: Mapping[str, int]


def tag_counts(rows: ReportRows) -> dict[str, TagCounts]:
    """The counts of each column of labels that has a value: of TAGS, and of the recipe's own questions."""
    kept = rows.table.filter(pa.array(rows.kept))
    found = {}
    for name in (*TAGS, *rows.own_tags):
        if rows.has(name):
            every = _counted(rows.table[name])
            order = _order(rows, name, every)
            inside = _counted(kept[name])
            found[name] = TagCounts(
                name, {value: inside[value] for value in order if inside[value]}, {v: every[v] for v in order}
            )
    return found


def openings(rows: ReportRows, most: int = 10) -> tuple[Opening, ...]:
    """The commonest first six words of the kept rows, those of one row left out."""
    if not rows.has("opening"):
        return ()
    column = rows.table["opening"].filter(pa.array(rows.kept))
    counts = _counted(column)
    del counts[None]
    total = counts.total()
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))[:most]
    return tuple(Opening(str(first), count, count / total) for first, count in ranked if count > 1)


def commonest_word(texts: Sequence[str]) -> tuple[str, float] | None:
    """The word that stands in the most texts, and their share; words of grammar, and those of any task, left out."""
    return next(iter(commonest_words(texts, 1)), None)


def commonest_words(texts: Sequence[str], most: int) -> list[tuple[str, float]]:
    """The words that stand in the most texts, each with their share; words of grammar and of any task left out."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update({word for word in words(text[:_LETTERS]) if _says_something(word)})
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [(word, count / len(texts)) for word, count in ranked[:most]]


def _says_something(word: str) -> bool:
    return len(word) > 2 and not word.isdigit() and word not in GRAMMAR and word not in TASKS


def personal_data(rows: ReportRows) -> tuple[Personal, ...]:
    """The kinds of personal data that were found, by column; a row counts once for a kind."""
    found = []
    for name in rows.pii_columns():
        inside, every = Counter[str](), Counter[str]()
        for kinds, is_in in zip(rows.table[name].to_pylist(), rows.kept, strict=True):
            every.update(set(kinds or ()))
            if is_in:
                inside.update(set(kinds or ()))
        hit = sum(1 for kinds in rows.table[name].to_pylist() if kinds)
        found.append(Personal(name, hit, dict(inside.most_common()), dict(every.most_common())))
    return tuple(found)


def entropy(counts: Sequence[int]) -> float:
    """The Shannon entropy of a distribution, in bits."""
    total = sum(counts)
    return sum(count / total * math.log2(total / count) for count in counts if count) if total else 0.0


def _counted(column: Any) -> Counter[str | None]:
    pairs = pc.value_counts(column).to_pylist()
    return Counter({pair["values"]: pair["counts"] for pair in pairs})


def _order(rows: ReportRows, name: str, counts: Counter[str | None]) -> list[str | None]:
    """The values in the order of the label, then by how many rows have them; null last."""
    scale = _scale(rows, name)
    ranked: list[str | None] = sorted(
        (value for value in counts if value is not None and value not in scale),
        key=lambda value: (-counts[value], str(value)),
    )
    return [*(value for value in scale if value in counts), *ranked, *([None] if None in counts else [])]


def _scale(rows: ReportRows, column: str) -> tuple[str, ...]:
    if rows.recipe is None:
        return ()
    from magpie.steps import steps_of

    labels = (label for step in steps_of(rows.recipe) for label in step.labels)
    return next((label.values for label in labels if label.column == column and label.ordered), ())
