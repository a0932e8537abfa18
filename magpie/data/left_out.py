"""Rows that do not go on, and why: each reason with its number of rows, and the first few of them named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A reason, how many rows it left out, and where the first of them are: a file and a row, or an id."""

    reason: str
    rows: int
    examples: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"reason": self.reason, "rows": self.rows, "examples": list(self.examples)}


class Reasons:
    """Counts rows by the reason that they are left out for, in the order in which reasons first come."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, reason: str, example: str) -> None:
        """Count a row."""
        self.count(reason, 1, (example,))

    def count(self, reason: str, rows: int, examples: Sequence[str]) -> None:
        """Count `rows` rows, of which the first are `examples`."""
        if rows:
            self._rows[reason] += rows
            held = self._examples.setdefault(reason, [])
            held += examples[: EXAMPLES - len(held)]

    @property
    def total(self) -> int:
        """How many rows are left out."""
        return self._rows.total()

    def result(self) -> tuple[LeftOut, ...]:
        """What was counted."""
        return tuple(
            LeftOut(reason, rows, tuple(self._examples[reason])) for reason, rows in self._rows.items()
        )
