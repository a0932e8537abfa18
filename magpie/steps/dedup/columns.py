"""What was found among the live rows, as columns of all rows.

`at` holds the positions of the live rows in the table, and values have one entry for each of them. `places` is the
inverse: for each row of the table its place among the live rows, or -1 where it is out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.engines.embedder import BETTER_EMBEDDER
from magpie.neighbors.cells import Recall
from magpie.neighbors.vectors import Distances, Positions
from magpie.steps.base import NOTE, REJECTED, Instructions
from magpie.text import counted

REPEAT = "dedup: repeat"
Search = Literal["exact", "approximate"]


@dataclass(slots=True)
class Found:
    """What was found for each live row: as in a `Survey`, and the live row that it repeats, or -1."""

    distance: Distances
    nearest: Positions
    count: Positions
    repeat_of: Positions
    recall: Recall | None = None

    @classmethod
    def nothing(cls, rows: int) -> Found:
        """So many rows that are each alone."""
        none = np.full(rows, -1, np.int64)
        return cls(np.full(rows, np.nan), none, np.zeros(rows, np.int64), none.copy())

    def put(self, at: Positions, part: Found) -> None:
        """Enter what was found for the rows at these positions, where positions counted those rows alone."""
        self.distance[at], self.count[at] = part.distance, part.count
        self.nearest[at] = np.where(part.nearest < 0, -1, at[part.nearest])
        self.repeat_of[at] = np.where(part.repeat_of < 0, -1, at[part.repeat_of])
        self.recall = part.recall or self.recall


def inverse(at: Positions, count: int) -> Positions:
    """For each of `count` rows its place in `at`, or -1."""
    places = np.full(count, -1, np.int64)
    places[at] = np.arange(len(at))
    return places


def value_column(values: Any, places: Positions, unknown: Any, kind: pa.DataType) -> pa.Array:
    """Values of the live rows as a column of all rows: null where a row is out, or its value unknown."""
    if not len(values):
        return pa.nulls(len(places), kind)
    out = places < 0
    # A place of -1 takes the last value, which the mask then hides.
    return pa.array(values[places], mask=out | unknown[places]).cast(kind)


def id_column(rows: pa.Table, at: Positions, targets: Positions, places: Positions) -> Any:
    """The id of the live row that each live row names (`targets`, -1: none), as a column of all rows."""
    if not len(at):
        return pa.nulls(len(places), pa.string())
    # From a row of the table to its place among the live ones, from there to the live row that it names, and in `take`
    # from that to its position in the table.
    target = np.where(places < 0, -1, targets[places])
    return rows["id"].take(pa.array(at[target], mask=target < 0))


def with_foreign(
    columns: pa.Table, datasets: Sequence[Instructions], at: Positions, near_foreign: Positions
) -> pa.Table:
    """The columns, with the id and the dataset of the foreign instruction that a live row is near.

    `near_foreign` counts the instructions of all datasets in one row; -1 where a live row is near none.
    """
    places = inverse(at, columns.num_rows)
    target = np.full(columns.num_rows, -1, np.int64)
    target[places >= 0] = near_foreign[places[places >= 0]]
    chosen = pa.array(target, mask=target < 0)
    ids = pa.array([id for dataset in datasets for id in dataset.ids], pa.string())
    reasons = [f"{REPEAT} of {dataset.name}" for dataset in datasets for _ in dataset.ids]
    # Rows near a foreign instruction were not compared with other rows, so that their columns are null and
    # `coalesce` replaces nothing.
    for name, values in (("duplicate_of", ids), (REJECTED.name, pa.array(reasons, pa.string()))):
        number = columns.schema.get_field_index(name)
        columns = columns.set_column(number, name, pc.coalesce(values.take(chosen), columns[name]))
    return columns


def note_of(neighbors: Found, unread: int) -> dict[bytes, bytes] | None:
    """What there is to say of the result, for the metadata of the shards; None where all was exact and read.

    That is the measured recall of an approximate search, and how many texts the embedder could not read whole.
    """
    note: dict[str, Any] = {}
    if unread:
        note["not_compared_by_distance_alone"] = (
            f"{counted(unread, 'row')} with words the embedder does not know, or more tokens than it reads; "
            f"name an embedder of their languages and lengths, such as {BETTER_EMBEDDER}"
        )
    if neighbors.recall is not None:
        recall = neighbors.recall
        note |= {"probes": recall.probes, "pair_recall": recall.pairs, "nearest_recall": recall.nearest}
    return {NOTE: json.dumps(note).encode()} if note else None
