"""Rows to read: a seeded sample of the kept and of the rejected ones, and the worst by each measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.figures.report_rows import NUMBERS, SEED, TEXTS, Positions, ReportRows
from magpie.figures.spreads import worst
from magpie.runs.public import public_reason
from magpie.steps.base import REJECTED

KEPT, OUT, OF_REASON, WORST = 300, 150, 6, 12
"""How many rows there are of each kind: drawn from the kept, from the rejected, for each reason, by each measure."""
MOST_REASONS = 40

_MEASURES = (
    ("lowest reward", "instruct_reward", False),
    ("lowest reward difference", "reward_difference", False),
    ("nearest to another row", "min_neighbor_distance", False),
    ("longest instruction", "instruction_characters", True),
    ("shortest instruction", "instruction_characters", False),
    ("longest response", "response_characters", True),
    ("shortest response", "response_characters", False),
)
_POOREST = (
    ("poorest quality", "input_quality", ("very poor", "poor")),
    ("unsafe", "llama_guard", ("unsafe",)),
    ("response cut", "response_finish_reason", ("length",)),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A row to read: its values by column, its conversation as (role, text), and `why` it is among these."""

    position: int
    id: str
    rejected: str | None
    values: dict[str, Any]
    messages: tuple[tuple[str, str], ...]
    why: tuple[str, ...]


def rows_to_read(rows: ReportRows, more: Mapping[str, Positions]) -> list[Row]:
    """The rows to read in their order; `more` are positions of others that the report speaks of, by why it does."""
    why = _chosen(rows)
    for reason, positions in more.items():
        for position in positions:
            why.setdefault(int(position), []).append(reason)
    at = np.array(sorted(why), np.int64)
    texts = rows.at(at, TEXTS).to_pylist() if len(at) else []
    values = rows.table.take(pa.array(at)).to_pylist()
    shown = (*rows.tags(), *NUMBERS, *rows.pii_columns())
    return [
        Row(
            position=int(position),
            id=str(row["id"]),
            rejected=row[REJECTED.name],
            values={name: row[name] for name in shown if row.get(name) is not None},
            messages=conversation(text),
            why=tuple(why[int(position)]),
        )
        for position, row, text in zip(at, values, texts, strict=True)
    ]  # fmt: skip


def examples(rows: ReportRows) -> dict[str, Positions]:
    """For each reason the positions of a few rows that it keeps out, drawn by SEED; the commonest reasons first."""
    column = rows.table[REJECTED.name]
    counts = {pair["values"]: pair["counts"] for pair in pc.value_counts(column).to_pylist()}
    counts.pop(None, None)
    reasons = sorted(counts, key=lambda reason: (-counts[reason], reason))[:MOST_REASONS]
    return {
        reason: rows.sample(
            OF_REASON, of=np.asarray(pc.equal(column, reason).fill_null(False).to_numpy(zero_copy_only=False))
        )
        for reason in reasons
    }


def conversation(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The messages of a row, from its conversation or from its texts; a row without an instruction has the raw one."""
    for name in ("messages", "conversations"):
        turns = row.get(name)
        if isinstance(turns, list):
            return tuple(_turn(turn) for turn in turns if isinstance(turn, dict))
    asked = row.get("instruction")
    raw = row.get("raw_instruction")
    messages = [
        ("user" if asked is not None else "as written", str(asked if asked is not None else raw or ""))
    ]
    for role, name in (
        ("reasoning", "reasoning"),
        ("assistant", "response"),
        ("chosen", "chosen_response"),
        ("not chosen", "rejected_response"),
    ):
        if row.get(name):
            messages.append((role, str(row[name])))
    later: Sequence[Any] = row.get("later_turns") or ()
    return (*messages, *(_turn(turn) for turn in later))


def _turn(turn: dict[str, Any]) -> tuple[str, str]:
    role, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    return str(role or ""), text if isinstance(text, str) else "" if text is None else str(text)


def _chosen(rows: ReportRows) -> dict[int, list[str]]:
    """The positions of the rows to read, and why each is among them."""
    why: dict[int, list[str]] = {}

    def take(positions: Positions, reason: str) -> None:
        for position in positions:
            why.setdefault(int(position), []).append(reason)

    draw = f"drawn at random (seed {SEED})"
    take(rows.sample(KEPT), draw)
    take(rows.sample(OUT, of=~rows.kept), draw)
    for reason, positions in examples(rows).items():
        take(positions, f"example of: {public_reason(reason)}")
    for name, column, largest in _MEASURES:
        take(worst(rows, column, WORST, largest=largest), name)
    for name, column, values in _POOREST:
        if rows.has(column):
            is_poor = pc.is_in(rows.table[column], pa.array(values)).to_numpy(zero_copy_only=False)
            take(rows.sample(WORST, of=rows.kept & np.asarray(is_poor, bool)), name)
    for column in rows.pii_columns():
        found = pc.fill_null(pc.greater(pc.list_value_length(rows.table[column]), 0), False)
        take(
            rows.sample(WORST, of=rows.kept & found.to_numpy(zero_copy_only=False)),
            f"personal data ({column})",
        )
    return why
