"""What a judge answered to the questions of Self-Instruct's review (arXiv 2212.10560, table 2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

QUESTIONS = {
    "valid_task": ("Is the task a valid one?", 0.92),
    "input_fits": ("Does the input fit the task?", 0.79),
    "output_right": ("Is the output right for both?", 0.58),
}
"""Each column with its question, and the share of yes that an expert gave 200 tasks of the paper's set."""
ALL, PUBLISHED_ALL = "All three", 0.54
PUBLISHED_ROWS = 200


@dataclass(frozen=True, slots=True)
class Reviewed:
    """How many rows were reviewed, and to how many of them the judge said yes, question by question and to all."""

    rows: int
    yes: tuple[int, ...]
    all: int

    def with_(self, other: Reviewed) -> Reviewed:
        """The answers of both."""
        both = zip(self.yes, other.yes, strict=True)
        return Reviewed(self.rows + other.rows, tuple(a + b for a, b in both), self.all + other.all)

    def lines(self) -> list[tuple[str, int, float]]:
        """(question, rows with yes, the paper's share) of each, and of all three."""
        lines = [
            (question, count, published)
            for (question, published), count in zip(QUESTIONS.values(), self.yes, strict=True)
        ]
        return [*lines, (ALL, self.all, PUBLISHED_ALL)]


def reviewed(tables: Iterable[pa.Table]) -> Reviewed | None:
    """The answers in the rows of these tables; None where no row has any."""
    rows, both = 0, 0
    yes = np.zeros(len(QUESTIONS), np.int64)
    for table in tables:
        if not all(_is_answered(table, name) for name in QUESTIONS):
            continue
        columns = [pc.fill_null(table[name].cast(pa.int8()), -1).to_numpy() for name in QUESTIONS]
        answers = np.stack(columns)[:, np.min(columns, axis=0) >= 0].astype(bool)
        rows += answers.shape[1]
        yes += answers.sum(axis=1)
        both += int(answers.all(axis=0).sum())
    return Reviewed(rows, tuple(map(int, yes)), both) if rows else None


def _is_answered(table: pa.Table, name: str) -> bool:
    return name in table.column_names and pa.types.is_boolean(table.schema.field(name).type)
