"""Finds each instruction's nearest neighbour, and rejects repeats of instructions that are kept.

Distances are squared L2 between vectors of length 1: 0 for the same direction, 2 for unrelated ones, and 2 - 2 cos in
between. The search itself is `magpie.neighbors`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.instructions import Instructions, read_instructions
from magpie.engines.embedder import encode_all
from magpie.errors import ModelError
from magpie.neighbors.order import first_before, keep_in_order
from magpie.neighbors.survey import Survey, survey
from magpie.neighbors.vectors import Positions, ProgressCallback, UnitVectors, no_progress
from magpie.recipe import Dedup, Model
from magpie.steps.base import NOTE, REJECTED, inner, unit_vectors

Search = Literal["exact", "approximate"]

REPEAT = "dedup: repeat"

_QUALITIES = ("excellent", "good", "average", "poor", "very poor")
_ORDERED_BY = {"first": (), "longest": ("instruction",), "best_quality": ("input_quality",)}


@dataclass(frozen=True, slots=True)
class DedupStep:
    """Adds what is known of each row's neighbours among the rows that are not rejected, and rejects repeats.

    `min_neighbor_distance` is the squared L2 distance to the nearest other row and `min_similar_id` that row (of rows
    with the very same vector, the one of lowest index); both are null for a row that is alone. `repeat_count` is how
    many other rows are nearer than the threshold. Rows are kept in the order that `keep` names, and a row is a repeat
    when one that is kept already is nearer than the threshold: strictly nearer, so that a threshold of 0 rejects
    nothing. `duplicate_of` is the first kept row that a repeat is near. A row that near to an instruction of a dataset
    in `against` is out before any other is looked at: it is nobody's neighbour, `duplicate_of` is the id of that
    instruction, and the other columns are null.

    `pairs` and `nearest` say how near pairs and nearest neighbours are looked for. An approximate search leaves a note
    of its measured recall in the shards; a distance above the threshold is then that of the nearest row it found.
    """

    part: Dedup
    pairs: Search = "exact"
    nearest: Search = "exact"
    embedder: Model | None = None
    watch: ProgressCallback = no_progress

    name = "dedup"
    adds = pa.schema(
        [
            pa.field("min_neighbor_distance", pa.float32()),
            pa.field("min_similar_id", pa.string()),
            pa.field("repeat_count", pa.int32()),
            inner("duplicate_of", pa.string()),
            REJECTED,
        ]
    )
    version = 2

    @property
    def reads(self) -> tuple[str, ...]:
        """The vectors, and what the order of keeping goes by."""
        return ("embedding", *_ORDERED_BY[self.part.keep])

    @property
    def settings(self) -> dict[str, Any]:
        """The threshold, the order of keeping, how neighbours are looked for, and what other datasets hold.

        Reads those. Raises RecipeError when one cannot be read.
        """
        return {
            **self.part.model_dump(mode="json", exclude={"method", "against"}),
            "pairs": self.pairs,
            "nearest": self.nearest,
            "against": {name: read_instructions(name).digest for name in self.part.against},
        }

    def with_watch(self, watch: ProgressCallback) -> DedupStep:
        """The same step, telling `watch` how far it is."""
        return replace(self, watch=watch)

    def run_all(self, rows: pa.Table) -> pa.Table:
        """The new columns for the whole run. Holds every live vector as it is stored, and never all pairs.

        Raises ModelError when a live row's vector is missing, zero or not finite.
        """
        at = np.flatnonzero(pc.is_null(rows[REJECTED.name]).to_numpy(zero_copy_only=False))
        at = at[np.argsort(rows["index"].to_numpy()[at], kind="stable")]
        units = unit_vectors(rows, at)
        # Half of the memory is free again, where the caller has let go of the rows and Arrow gives back what it has.
        rows = rows.drop_columns(["embedding"])
        pa.default_memory_pool().release_unused()
        foreign = [read_instructions(name) for name in self.part.against]
        hit = self._near_foreign(units, [text for dataset in foreign for text in dataset.texts])
        own = np.flatnonzero(hit < 0)
        if len(own) < len(at):
            units.keep_only(own)
        columns = self._own_columns(rows, at[own], units)
        if foreign:
            columns = _with_foreign(columns, foreign, at, hit)
        note = columns.schema.metadata
        return columns.cast(pa.schema([("id", pa.string()), *self.adds], metadata=note))

    def _own_columns(self, rows: pa.Table, at: Positions, units: UnitVectors) -> pa.Table:
        """The columns, of the rows at `at` among themselves. Of `units`, their vectors, the distinct ones are left."""
        found = survey(
            units, self.part.threshold, pairs=self.pairs, nearest=self.nearest, on_progress=self.watch
        )
        repeat_of = self._repeats(units, found, self._ranks(rows, at))
        places = _inverse(at, rows.num_rows)
        alone = np.isnan(found.distance)
        columns = {
            "id": rows["id"],
            "min_neighbor_distance": _spread(found.distance, places, alone, pa.float32()),
            "min_similar_id": _ids(rows, at, np.where(alone, -1, found.nearest), places),
            "repeat_count": _spread(found.count, places, np.zeros(len(at), np.bool_), pa.int32()),
            "duplicate_of": _ids(rows, at, repeat_of, places),
        }
        is_repeat = pc.is_valid(columns["duplicate_of"])
        columns[REJECTED.name] = pc.if_else(is_repeat, pa.scalar(REPEAT), pa.scalar(None, pa.string()))
        return pa.table(columns, metadata=_note(found))

    def _ranks(self, rows: pa.Table, at: Positions) -> Positions:
        """The place of each live row in the order of keeping; of rows alike the first comes first."""
        if self.part.keep == "first":
            return np.arange(len(at))
        if self.part.keep == "longest":
            keys = -pc.utf8_length(rows["instruction"]).to_numpy()[at]
        else:
            found = pc.index_in(rows["input_quality"], pa.array(_QUALITIES))
            keys = found.fill_null(len(_QUALITIES)).to_numpy()[at]
        ranks = np.empty(len(at), np.int64)
        ranks[np.argsort(keys, kind="stable")] = np.arange(len(at))
        return ranks

    def _near_foreign(self, units: UnitVectors, texts: Sequence[str]) -> Positions:
        """For each vector the first of the texts that it is near, or -1."""
        if not texts or not len(units) or self.part.threshold == 0:
            return np.full(len(units), -1, np.int64)
        assert self.embedder is not None
        self.watch("embedding other datasets", 0, len(texts))
        vectors = encode_all(self.embedder, texts)
        if vectors.shape[1] != units.width:
            raise ModelError(
                f"the embedder gives vectors of {vectors.shape[1]} dimensions, the run has {units.width}; "
                "run the build again with one embedder"
            )
        both = UnitVectors.of(np.concatenate([vectors.astype(units.stored.dtype), units.stored]))
        return first_before(both, len(texts), self.part.threshold, on_progress=self.watch)

    def _repeats(self, units: UnitVectors, found: Survey, ranks: Positions) -> Positions:
        """For each live row the live row that it repeats, or -1. `units` holds the distinct vectors."""
        repeat_of = np.full(len(ranks), -1, np.int64)
        if self.part.threshold == 0:
            return repeat_of
        row_at = np.empty(len(ranks), np.int64)
        row_at[ranks] = np.arange(len(ranks))
        rank = np.full(len(units), len(ranks), np.int64)
        np.minimum.at(rank, found.kind, ranks)
        first = row_at[rank] if len(rank) else rank
        crowded = np.flatnonzero(found.others)
        crowded = crowded[np.argsort(rank[crowded], kind="stable")]
        repeats = keep_in_order(units.take(crowded), self.part.threshold, on_progress=self.watch)
        kept = np.arange(len(units))
        kept[crowded[repeats >= 0]] = crowded[repeats[repeats >= 0]]
        repeat_of = first[kept[found.kind]] if len(units) else repeat_of
        repeat_of[repeat_of == np.arange(len(ranks))] = -1
        return np.asarray(repeat_of)


def _spread(values: Any, places: Positions, unknown: Any, kind: pa.DataType) -> pa.Array:
    """Values of the live rows as a column of all rows: null where a row is out, or its value unknown."""
    if not len(values):
        return pa.nulls(len(places), kind)
    out = places < 0
    return pa.array(values[places], mask=out | unknown[places]).cast(kind)


def _ids(rows: pa.Table, at: Positions, named: Positions, places: Positions) -> Any:
    """The ids of the rows that live rows name (-1: none), as a column of all rows."""
    if not len(at):
        return pa.nulls(len(places), pa.string())
    target = np.where(places < 0, -1, named[places])
    return rows["id"].take(pa.array(at[target], mask=target < 0))


def _with_foreign(
    columns: pa.Table, foreign: Sequence[Instructions], at: Positions, hit: Positions
) -> pa.Table:
    """The columns, saying of each live row near a foreign instruction (`hit`, -1: none) which, and of which dataset."""
    places = _inverse(at, columns.num_rows)
    target = np.full(columns.num_rows, -1, np.int64)
    target[places >= 0] = hit[places[places >= 0]]
    chosen = pa.array(target, mask=target < 0)
    ids = pa.array([id for dataset in foreign for id in dataset.ids], pa.string())
    reasons = [f"{REPEAT} of {dataset.name}" for dataset in foreign for _ in dataset.ids]
    for name, values in (("duplicate_of", ids), (REJECTED.name, pa.array(reasons, pa.string()))):
        number = columns.schema.get_field_index(name)
        columns = columns.set_column(number, name, pc.coalesce(values.take(chosen), columns[name]))
    return columns


def _inverse(at: Positions, count: int) -> Positions:
    """For each of `count` rows its place in `at`, or -1."""
    places = np.full(count, -1, np.int64)
    places[at] = np.arange(len(at))
    return places


def _note(found: Survey) -> dict[bytes, bytes] | None:
    """What an approximate search found of a sample, for the shards."""
    if found.recall is None:
        return None
    recall = found.recall
    note = {"probes": recall.probes, "pair_recall": recall.pairs, "nearest_recall": recall.nearest}
    return {NOTE: json.dumps(note).encode()}
