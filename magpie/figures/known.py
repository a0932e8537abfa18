"""Near copies of known datasets: how many rows are some, and the nearest of them to read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magpie.figures.report_rows import INSTRUCTION, ReportRows

DISTANCE, KNOWN_AS = "known_distance", "known_as"
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class NearCopy:
    """A kept row, the known row that it is near, as NAME:ROW: text, and how near: a squared distance."""

    id: str
    instruction: str
    known: str
    distance: float


@dataclass(frozen=True, slots=True)
class NearCopies:
    """How many of the kept `rows` are near copies of a known row, and the nearest of them."""

    rows: int
    near: int
    nearest: tuple[NearCopy, ...]

    @property
    def share(self) -> float:
        """Their share."""
        return self.near / self.rows if self.rows else 0.0


def near_copies(rows: ReportRows) -> NearCopies | None:
    """The near copies among the kept rows; None where they were not compared with any dataset."""
    if not rows.has(DISTANCE) or KNOWN_AS not in rows.names:
        return None
    kept = np.flatnonzero(rows.kept)
    if not len(kept):
        return None
    distances = np.asarray(rows.table[DISTANCE].fill_null(np.inf).to_numpy(), float)
    known = rows.at(kept, [KNOWN_AS])[KNOWN_AS].to_pylist()
    near = [int(position) for position, name in zip(kept, known, strict=True) if name is not None]
    chosen = np.sort(np.array(sorted(near, key=lambda position: distances[position])[:_SHOWN], np.int64))
    texts = rows.at(chosen, [INSTRUCTION, KNOWN_AS]).to_pylist() if len(chosen) else []
    found = [
        NearCopy(
            str(rows.table["id"][int(position)]),
            text[INSTRUCTION] or "",
            text[KNOWN_AS],
            float(distances[position]),
        )
        for position, text in zip(chosen, texts, strict=True)
    ]
    return NearCopies(len(kept), len(near), tuple(sorted(found, key=lambda one: one.distance)))
