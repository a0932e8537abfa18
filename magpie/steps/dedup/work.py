"""The work of the step: compares rows with each other, and with the instructions of other datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.engines.embedder import encode_all
from magpie.errors import ModelError
from magpie.neighbors.order import keep_in_order
from magpie.neighbors.survey import Survey, survey
from magpie.neighbors.vectors import Positions, ProgressCallback, UnitVectors, no_progress
from magpie.recipe import Dedup, Model
from magpie.steps.base import REJECTED, GlobalWork, Instructions, unit_vectors
from magpie.steps.base.scales import QUALITIES
from magpie.steps.base.unread import first_like, groups, misses, texts_in
from magpie.steps.dedup.columns import (
    REPEAT,
    Found,
    Search,
    id_column,
    inverse,
    note_of,
    value_column,
    with_foreign,
)


@dataclass(frozen=True, slots=True)
class Deduplicator(GlobalWork):
    """Compares rows with each other, and with the instructions of other datasets.

    There are three kinds of positions, and each variable holds one of them:

    - of a row in the table: the values of `at`, and the index of the columns that are returned;
    - of a live row among the live rows, 0 to len(at) - 1: the index of `at`, and the positions in `units` before
      `survey` is called. Live rows are in the order of `index`. `inverse` leads here from a position in the table;
    - of a distinct vector among the distinct vectors: the positions in `units` after `survey`. `Survey.kind` leads here
      from a live row.
    """

    part: Dedup
    pairs: Search
    nearest: Search
    adds: pa.Schema
    against: tuple[Instructions, ...]
    embedder: Model | None
    embedder_reads: bool

    def run_all(self, rows: pa.Table, on_progress: ProgressCallback) -> pa.Table:
        """The new columns for the whole run. Holds every live vector as it is stored, and never all pairs.

        Raises ModelError when a live row's vector is missing, zero or not finite.
        """
        at = np.flatnonzero(pc.is_null(rows[REJECTED.name]).to_numpy(zero_copy_only=False))
        # By `index`: "the first" of two rows is then the one that was made first, whatever the order of the table.
        at = at[np.argsort(rows["index"].to_numpy()[at], kind="stable")]
        units = unit_vectors(rows, at)
        texts = [text for dataset in self.against for text in dataset.texts]
        # Foreign instructions come first, as everywhere below.
        unread = self._unread(texts, rows, at)
        # `units` is a copy of the vectors. Where the caller keeps no reference to the rows, this frees the column, half
        # of the memory; Arrow's pool would otherwise keep it for later use.
        rows = rows.drop_columns(["embedding"])
        pa.default_memory_pool().release_unused()
        # Foreign instructions come first, so that no row is rejected as a repeat of a row that is out itself.
        near_foreign = self._near_foreign(units, texts, unread, on_progress)
        own = np.flatnonzero(near_foreign < 0)
        if len(own) < len(at):
            units.keep_only(own)
        columns = self._own_columns(rows, at[own], units, unread[len(texts) :][own], on_progress)
        if self.against:
            columns = with_foreign(columns, self.against, at, near_foreign)
        # `cast` gives the columns their types, and would drop the note that is in the metadata of the schema.
        note = columns.schema.metadata
        return columns.cast(pa.schema([("id", pa.string()), *self.adds], metadata=note))

    def _unread(self, texts: Sequence[str], rows: pa.Table, at: Positions) -> Positions:
        """What the embedder misses of the texts, and then of each live row, by number: see `misses`."""
        if not self.embedder_reads:
            return np.zeros(len(texts) + len(at), np.int64)
        assert self.embedder is not None
        instructions = rows["instruction"].take(pa.array(at))
        return misses(self.embedder, chain(texts, texts_in(instructions)))

    def _own_columns(
        self,
        rows: pa.Table,
        at: Positions,
        units: UnitVectors,
        unread: Positions,
        on_progress: ProgressCallback,
    ) -> pa.Table:
        """The columns from comparing the rows at `at` with each other.

        `units` holds the vectors of these rows, and only distinct ones of them afterwards.
        """
        ranks, neighbors = self._ranks(rows, at), Found.nothing(len(at))
        # Small groups of rows that the embedder cannot read whole: equal in that, they may be repeats by the rest.
        for group in groups(unread):
            part = self._compare(units.take(group), _ranked_anew(ranks[group]), "exact", "exact", no_progress)
            neighbors.put(group, part)
        read = np.flatnonzero(unread == 0)
        if len(read) < len(at):
            units.keep_only(read)
        part = self._compare(units, _ranked_anew(ranks[read]), self.pairs, self.nearest, on_progress)
        neighbors.put(read, part)
        places = inverse(at, rows.num_rows)
        alone = np.isnan(neighbors.distance)
        columns = {
            "id": rows["id"],
            "min_neighbor_distance": value_column(neighbors.distance, places, alone, pa.float32()),
            "min_similar_id": id_column(rows, at, np.where(alone, -1, neighbors.nearest), places),
            "repeat_count": value_column(neighbors.count, places, np.zeros(len(at), np.bool_), pa.int32()),
            "duplicate_of": id_column(rows, at, neighbors.repeat_of, places),
        }
        is_repeat = pc.is_valid(columns["duplicate_of"])
        columns[REJECTED.name] = pc.if_else(is_repeat, pa.scalar(REPEAT), pa.scalar(None, pa.string()))
        return pa.table(columns, metadata=note_of(neighbors, int(np.count_nonzero(unread))))

    def _compare(
        self,
        units: UnitVectors,
        ranks: Positions,
        pairs: Search,
        nearest: Search,
        on_progress: ProgressCallback,
    ) -> Found:
        """What is found among some live rows. Leaves only the distinct vectors in `units`."""
        found = survey(units, self.part.threshold, pairs=pairs, nearest=nearest, on_progress=on_progress)
        repeat_of = self._repeats(units, found, ranks, on_progress)
        return Found(found.distance, found.nearest, found.count, repeat_of, found.recall)

    def _ranks(self, rows: pa.Table, at: Positions) -> Positions:
        """The rank of each live row in the order of keeping, 0 for the first; equal rows are ranked by `index`."""
        if self.part.keep == "first":
            return np.arange(len(at))
        if self.part.keep == "longest":
            keys = -pc.utf8_length(rows["instruction"]).to_numpy()[at]
        else:
            best_first = pa.array(QUALITIES[::-1])
            places = pc.index_in(rows["input_quality"], best_first)
            keys = places.fill_null(len(best_first)).to_numpy()[at]  # a row without a quality comes last
        # `argsort` gives the live row of each rank; this is its inverse.
        ranks = np.empty(len(at), np.int64)
        ranks[np.argsort(keys, kind="stable")] = np.arange(len(at))
        return ranks

    def _near_foreign(
        self, units: UnitVectors, texts: Sequence[str], unread: Positions, on_progress: ProgressCallback
    ) -> Positions:
        """For each vector the first of the texts that it is near, or -1. `unread` is of the texts, then the vectors."""
        embedder = self.embedder
        if embedder is None or not texts or not len(units) or self.part.threshold == 0:
            return np.full(len(units), -1, np.int64)
        on_progress("embedding other datasets", 0, len(texts))
        vectors = encode_all(embedder, texts)
        if vectors.shape[1] != units.width:
            raise ModelError(
                f"the embedder gives vectors of {vectors.shape[1]} dimensions, the run has {units.width}; "
                "run the build again with one embedder"
            )
        # The texts stand before the rows, so that `first_like` compares each row with texts only. They are rounded
        # like the rows: an equal text then has the very same vector.
        both = UnitVectors.of(np.concatenate([vectors.astype(units.stored.dtype), units.stored]))
        return first_like(both, len(texts), unread, self.part.threshold, on_progress)

    def _repeats(
        self, units: UnitVectors, neighbors: Survey, ranks: Positions, on_progress: ProgressCallback
    ) -> Positions:
        """For each live row the live row that it repeats, or -1. `units` holds the distinct vectors."""
        repeat_of = np.full(len(ranks), -1, np.int64)
        if self.part.threshold == 0:
            return repeat_of
        row_of_rank = np.empty(len(ranks), np.int64)
        row_of_rank[ranks] = np.arange(len(ranks))
        # A distinct vector is considered when the first row that has it is: rows with the very same vector are its
        # repeats, whatever the threshold.
        best_rank = np.full(len(units), len(ranks), np.int64)
        np.minimum.at(best_rank, neighbors.kind, ranks)
        first_row = row_of_rank[best_rank] if len(best_rank) else best_rank
        # Only vectors with another one near can be repeats, or have repeats: in most runs these are few.
        crowded = np.flatnonzero(neighbors.others)
        crowded = crowded[np.argsort(best_rank[crowded], kind="stable")]
        # `repeats` are positions in `crowded`; `kept_vector` leads from each distinct vector to the kept one that it
        # repeats, or to itself.
        repeats = keep_in_order(units.take(crowded), self.part.threshold, on_progress=on_progress)
        kept_vector = np.arange(len(units))
        kept_vector[crowded[repeats >= 0]] = crowded[repeats[repeats >= 0]]
        # From live row to its vector, to the kept vector, to the first row that has it.
        repeat_of = first_row[kept_vector[neighbors.kind]] if len(units) else repeat_of
        repeat_of[repeat_of == np.arange(len(ranks))] = -1  # a kept row is no repeat of itself
        return np.asarray(repeat_of)


def _ranked_anew(ranks: Positions) -> Positions:
    """The ranks of some rows among themselves: 0 for the first, and no gap."""
    return np.argsort(np.argsort(ranks, kind="stable"), kind="stable")
