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

from magpie.embedder import encode, load_encoder
from magpie.errors import ModelError
from magpie.instructions import Instructions, read_instructions
from magpie.neighbors.order import first_before, keep_in_order
from magpie.neighbors.survey import Survey, survey
from magpie.neighbors.vectors import Mask, NoDirectionError, Positions, UnitVectors, Watch, unwatched
from magpie.recipe import Dedup, Model
from magpie.steps.base import NOTE, REJECTED

Search = Literal["exact", "approximate"]

REPEAT = "dedup: repeat"

_BATCH = 128
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
    in `against` is out before any other is looked at, and `duplicate_of` is the id of that instruction.

    `pairs` and `nearest` say how near pairs and nearest neighbours are looked for. An approximate search leaves a note
    of its measured recall in the shards; a distance above the threshold is then that of the nearest row it found.
    """

    part: Dedup
    pairs: Search = "exact"
    nearest: Search = "exact"
    embedder: Model | None = None
    watch: Watch = unwatched

    name = "dedup"
    adds = pa.schema(
        [
            pa.field("min_neighbor_distance", pa.float32()),
            pa.field("min_similar_id", pa.string()),
            pa.field("repeat_count", pa.int32()),
            pa.field("duplicate_of", pa.string()),
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

    def with_watch(self, watch: Watch) -> DedupStep:
        """The same step, telling `watch` how far it is."""
        return replace(self, watch=watch)

    def run_all(self, rows: pa.Table) -> pa.Table:
        """The new columns for the whole run. Holds every live vector as it is stored, and never all pairs.

        Raises ModelError when a live row's vector is missing, zero or not finite.
        """
        at = np.flatnonzero(pc.is_null(rows[REJECTED.name]).to_numpy(zero_copy_only=False))
        at = at[np.argsort(rows["index"].to_numpy()[at], kind="stable")]
        units = unit_vectors(rows, at)
        found = survey(units, self.part.threshold, pairs=self.pairs, nearest=self.nearest, watch=self.watch)
        foreign = [read_instructions(name) for name in self.part.against]
        foreign_ids, foreign_names, of_foreign = self._near_foreign(units, foreign, found.kind)
        repeat_of = self._repeats(units, found, self._ranks(rows, at), out=of_foreign >= 0)
        places = np.full(rows.num_rows, -1, np.int64)
        places[at] = np.arange(len(at))
        alone = np.isnan(found.distance)
        columns = {
            "id": rows["id"],
            "min_neighbor_distance": _spread(found.distance, places, alone, pa.float32()),
            "min_similar_id": _ids(rows, at, np.where(alone, -1, found.nearest), places),
            "repeat_count": _spread(found.count, places, np.zeros(len(at), np.bool_), pa.int32()),
            "duplicate_of": _ids(rows, at, repeat_of, places),
        }
        is_repeat = pc.is_valid(columns["duplicate_of"])
        reasons = pc.if_else(is_repeat, pa.scalar(REPEAT), pa.scalar(None, pa.string()))
        if foreign:
            named = _pick(foreign_ids, of_foreign, places), _pick(foreign_names, of_foreign, places)
            columns["duplicate_of"] = pc.coalesce(named[0], columns["duplicate_of"])
            reasons = pc.coalesce(pc.binary_join_element_wise(REPEAT, named[1], " of "), reasons)
        columns[REJECTED.name] = reasons
        return pa.table(columns, schema=pa.schema([("id", pa.string()), *self.adds], metadata=_note(found)))

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

    def _near_foreign(
        self, units: UnitVectors, foreign: Sequence[Instructions], kind: Positions
    ) -> tuple[list[str], list[str], Positions]:
        """Ids and datasets of foreign instructions, and for each live row the first that it is near, or -1."""
        ids = [id for dataset in foreign for id in dataset.ids]
        names = [dataset.name for dataset in foreign for _ in dataset.ids]
        if not ids or not len(units) or self.part.threshold == 0:
            return ids, names, np.full(len(kind), -1, np.int64)
        assert self.embedder is not None
        self.watch("embedding other datasets", 0, len(ids))
        encoder = None if self.embedder.engine == "scripted" else load_encoder(self.embedder)
        texts = [text for dataset in foreign for text in dataset.texts]
        vectors = encode(encoder, texts, batch_size=_BATCH).astype(units.stored.dtype)
        if vectors.shape[1] != units.width:
            raise ModelError(
                f"the embedder gives vectors of {vectors.shape[1]} dimensions, the run has {units.width}; "
                "run the build again with one embedder"
            )
        both = UnitVectors.of(np.concatenate([vectors, units.stored]))
        return ids, names, first_before(both, len(ids), self.part.threshold, watch=self.watch)[kind]

    def _repeats(self, units: UnitVectors, found: Survey, ranks: Positions, *, out: Mask) -> Positions:
        """For each live row the live row that it repeats, or -1; rows that are `out` repeat none and are kept by none.

        `units` holds the distinct vectors: where one row of a kind is out, all of the kind are.
        """
        repeat_of = np.full(len(ranks), -1, np.int64)
        if self.part.threshold == 0:
            return repeat_of
        row_at = np.empty(len(ranks), np.int64)
        row_at[ranks] = np.arange(len(ranks))
        rank = np.full(len(units), len(ranks), np.int64)
        np.minimum.at(rank, found.kind, ranks)
        first = row_at[rank] if len(rank) else rank
        gone = np.zeros(len(units), np.bool_)
        gone[found.kind[out]] = True
        crowded = np.flatnonzero((found.others > 0) & ~gone)
        crowded = crowded[np.argsort(rank[crowded], kind="stable")]
        repeats = keep_in_order(units.take(crowded), self.part.threshold, watch=self.watch)
        kept = np.arange(len(units))
        kept[crowded[repeats >= 0]] = crowded[repeats[repeats >= 0]]
        repeat_of = first[kept[found.kind]] if len(units) else repeat_of
        repeat_of[out | (repeat_of == np.arange(len(ranks)))] = -1
        return np.asarray(repeat_of)


def unit_vectors(rows: pa.Table, at: Positions) -> UnitVectors:
    """The vectors of the rows at positions `at`, in that order, as stored. Raises ModelError."""
    place = np.full(rows.num_rows, -1, np.int64)
    place[at] = np.arange(len(at))
    stored: np.ndarray[Any, Any] = np.empty((len(at), 0), np.float32)
    start = 0
    for chunk in rows["embedding"].chunks:
        places = place[start : start + len(chunk)]
        start += len(chunk)
        kept = chunk.filter(pa.array(places >= 0))
        if not len(kept):
            continue
        widths = pc.unique(pc.list_value_length(kept)).to_pylist()
        values = kept.flatten().to_numpy(zero_copy_only=False)
        if not stored.shape[1] and widths[0]:
            kind = values.dtype if values.dtype == np.float16 else np.float32
            stored = np.empty((len(at), widths[0]), kind)
        if kept.null_count or widths != [stored.shape[1]] or not widths[0]:
            raise ModelError(
                "rows have no embedding, or one of another width; run the build again with one embedder"
            )
        stored[places[places >= 0]] = values.reshape(len(kept), -1)
    try:
        return UnitVectors.of(stored)
    except NoDirectionError as error:
        row = rows["id"][int(at[error.position])].as_py()
        raise ModelError(
            f"the embedding of row {row} is zero or not finite; "
            "set the embedder's `dtype` to float32, or use another embedder"
        ) from error


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


def _pick(values: Sequence[str], chosen: Positions, places: Positions) -> pa.Array:
    """For each row the value that its live row has chosen (-1: none), as a column of all rows."""
    target = np.full(len(places), -1, np.int64)
    target[places >= 0] = chosen[places[places >= 0]]
    return pa.array(values, pa.string()).take(pa.array(target, mask=target < 0))


def _note(found: Survey) -> dict[bytes, bytes] | None:
    """What an approximate search found of a sample, for the shards."""
    if found.recall is None:
        return None
    recall = found.recall
    note = {"probes": recall.probes, "pair_recall": recall.pairs, "nearest_recall": recall.nearest}
    return {NOTE: json.dumps(note).encode()}
