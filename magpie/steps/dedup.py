"""Finds each instruction's nearest neighbour, and rejects repeats of instructions that are kept.

Distances are squared L2 between vectors of length 1: 0 for the same direction, 2 for unrelated ones, and 2 - 2 cos in
between. The search itself is `magpie.neighbors`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.engines.embedder import encode_all
from magpie.errors import ModelError
from magpie.neighbors.order import first_before, keep_in_order
from magpie.neighbors.survey import Survey, survey
from magpie.neighbors.vectors import Positions, ProgressCallback, UnitVectors
from magpie.recipe import Dedup, Model, Recipe
from magpie.steps.base import NOTE, REJECTED, GlobalStep, GlobalWork, Instructions, Tools, inner, unit_vectors
from magpie.steps.base.scales import QUALITIES

Search = Literal["exact", "approximate"]

REPEAT = "dedup: repeat"

# Rows up to which `auto` compares all pairs: minutes on two cores, where more rows take hours.
_EXACT_PAIRS = 2_000_000
_EXACT_NEAREST = 100_000

_ORDERED_BY = {"first": (), "longest": ("instruction",), "best_quality": ("input_quality",)}


@dataclass(frozen=True, slots=True)
class DedupStep(GlobalStep):
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

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[DedupStep, ...]:
        """The step, where the recipe rejects repeats."""
        part, embed = recipe.dedup, recipe.embed
        embedder = None if embed is None else recipe.model(embed.model)
        return () if part is None else (cls.for_rows(part, recipe.rows, embedder),)

    @classmethod
    def for_rows(cls, part: Dedup, rows: int, embedder: Model | None = None) -> DedupStep:
        """The step for a run of so many rows: `auto` is exact up to where comparing all pairs takes minutes.

        `embedder` is for the instructions of the datasets in `against`.
        """

        def choose(wish: Literal["auto", "exact", "approximate"], most: int) -> Search:
            if wish == "auto":
                return "exact" if rows <= most else "approximate"
            return wish

        pairs, nearest = choose(part.method, _EXACT_PAIRS), choose(part.nearest, _EXACT_NEAREST)
        return cls(part, pairs, nearest, embedder)

    @property
    def reads(self) -> tuple[str, ...]:
        """The vectors, and what the order of keeping goes by."""
        return ("embedding", *_ORDERED_BY[self.part.keep])

    @property
    def settings(self) -> dict[str, Any]:
        """The threshold, the order of keeping, and how neighbours are looked for."""
        part = self.part.model_dump(mode="json", exclude={"method", "against"})
        return {**part, "pairs": self.pairs, "nearest": self.nearest}

    @property
    def missing_advice(self) -> Mapping[str, str]:
        return {
            "input_quality": "`dedup.keep: best_quality` goes by `input_quality`, which nothing adds; "
            "switch `tag` on with the tag `quality`, or use `keep: longest`"
        }

    @property
    def bytes_per_row(self) -> int:
        return 28

    def fingerprint(self, tools: Tools) -> dict[str, Any]:
        against = {name: tools.instructions(name).digest for name in self.part.against}
        return {**self.settings, "against": against}

    def bind(self, tools: Tools) -> Deduplicator:
        return Deduplicator(self, tuple(tools.instructions(name) for name in self.part.against))


@dataclass(frozen=True, slots=True)
class Deduplicator(GlobalWork):
    """Compares rows with each other, and with the instructions of other datasets.

    Positions are of several kinds, and each variable holds one: of a row in the table (`at`), of a live row among the
    live rows (0 to len(at) - 1), and of a distinct vector among the distinct ones, which `Survey.kind` maps live rows
    to. `_inverse` turns positions in the table into positions among the live rows.
    """

    step: DedupStep
    against: tuple[Instructions, ...]

    @property
    def part(self) -> Dedup:
        """The settings."""
        return self.step.part

    def run_all(self, rows: pa.Table, on_progress: ProgressCallback) -> pa.Table:
        """The new columns for the whole run. Holds every live vector as it is stored, and never all pairs.

        Raises ModelError when a live row's vector is missing, zero or not finite.
        """
        at = np.flatnonzero(pc.is_null(rows[REJECTED.name]).to_numpy(zero_copy_only=False))
        at = at[np.argsort(rows["index"].to_numpy()[at], kind="stable")]
        units = unit_vectors(rows, at)
        # Half of the memory is free again, where the caller has let go of the rows and Arrow gives back what it has.
        rows = rows.drop_columns(["embedding"])
        pa.default_memory_pool().release_unused()
        texts = [text for dataset in self.against for text in dataset.texts]
        near_foreign = self._near_foreign(units, texts, on_progress)
        own = np.flatnonzero(near_foreign < 0)
        if len(own) < len(at):
            units.keep_only(own)
        columns = self._own_columns(rows, at[own], units, on_progress)
        if self.against:
            columns = _with_foreign(columns, self.against, at, near_foreign)
        note = columns.schema.metadata
        return columns.cast(pa.schema([("id", pa.string()), *self.step.adds], metadata=note))

    def _own_columns(
        self, rows: pa.Table, at: Positions, units: UnitVectors, on_progress: ProgressCallback
    ) -> pa.Table:
        """The columns, of the rows at `at` among themselves. Of `units`, their vectors, the distinct ones are left."""
        pairs, nearest = self.step.pairs, self.step.nearest
        found = survey(units, self.part.threshold, pairs=pairs, nearest=nearest, on_progress=on_progress)
        repeat_of = self._repeats(units, found, self._ranks(rows, at), on_progress)
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
            best_first = pa.array(QUALITIES[::-1])
            places = pc.index_in(rows["input_quality"], best_first)
            keys = places.fill_null(len(best_first)).to_numpy()[at]  # a row without a quality comes last
        ranks = np.empty(len(at), np.int64)
        ranks[np.argsort(keys, kind="stable")] = np.arange(len(at))
        return ranks

    def _near_foreign(
        self, units: UnitVectors, texts: Sequence[str], on_progress: ProgressCallback
    ) -> Positions:
        """For each vector the first of the texts that it is near, or -1."""
        embedder = self.step.embedder
        if embedder is None or not texts or not len(units) or self.part.threshold == 0:
            return np.full(len(units), -1, np.int64)
        on_progress("embedding other datasets", 0, len(texts))
        vectors = encode_all(embedder, texts)
        if vectors.shape[1] != units.width:
            raise ModelError(
                f"the embedder gives vectors of {vectors.shape[1]} dimensions, the run has {units.width}; "
                "run the build again with one embedder"
            )
        both = UnitVectors.of(np.concatenate([vectors.astype(units.stored.dtype), units.stored]))
        return first_before(both, len(texts), self.part.threshold, on_progress=on_progress)

    def _repeats(
        self, units: UnitVectors, found: Survey, ranks: Positions, on_progress: ProgressCallback
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
        np.minimum.at(best_rank, found.kind, ranks)
        first_row = row_of_rank[best_rank] if len(best_rank) else best_rank
        # Only vectors with another one near can be repeats, or have some: few, in most runs.
        crowded = np.flatnonzero(found.others)
        crowded = crowded[np.argsort(best_rank[crowded], kind="stable")]
        repeats = keep_in_order(units.take(crowded), self.part.threshold, on_progress=on_progress)
        kept_vector = np.arange(len(units))
        kept_vector[crowded[repeats >= 0]] = crowded[repeats[repeats >= 0]]
        repeat_of = first_row[kept_vector[found.kind]] if len(units) else repeat_of
        repeat_of[repeat_of == np.arange(len(ranks))] = -1  # a kept row is no repeat of itself
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
