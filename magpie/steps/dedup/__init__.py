"""Finds each instruction's nearest neighbour, and rejects repeats of instructions that are kept.

Distances are squared L2 between vectors of length 1: 0 for the same direction, 2 for unrelated ones, and 2 - 2 cos in
between. The search itself is `magpie.neighbors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from magpie.engines import find_engine
from magpie.recipe import Dedup, Model, Recipe
from magpie.steps.base import REJECTED, GlobalStep, Instructions, Tools, column, inner
from magpie.steps.dedup.columns import REPEAT, Search
from magpie.steps.dedup.work import Deduplicator

__all__ = [
    "REPEAT",
    "DedupStep",
    "Deduplicator",
]

# Rows up to which `auto` compares all pairs: minutes on two cores, where more rows take hours.
_EXACT_PAIRS = 2_000_000
_EXACT_NEAREST = 100_000

_ORDERED_BY = {"first": (), "longest": ("instruction",), "best_quality": ("input_quality",)}


@dataclass(frozen=True, slots=True)
class DedupStep(GlobalStep):
    """Adds how near each row's neighbours are, among the rows that are not rejected, and rejects repeats.

    `min_neighbor_distance` is the squared L2 distance to the nearest other row and `min_similar_id` that row (of rows
    with the very same vector, the one of lowest index); both are null for a row that is alone. `repeat_count` is how
    many other rows are nearer than the threshold. Rows are kept in the order that `keep` names, and a row is a repeat
    when one that is kept already is nearer than the threshold: strictly nearer, so that a threshold of 0 rejects
    nothing. `duplicate_of` is the first kept row that a repeat is near. A row that is as near to an instruction of a
    dataset in `against` is rejected first: it is not compared with other rows, `duplicate_of` is the id of that
    instruction, and the other columns are null. Rows that hold what the embedder cannot read, unknown words or more
    tokens than it takes, are compared only with rows that hold the same.

    `pairs` and `nearest` say how near pairs and nearest neighbours are searched. An approximate search leaves a note
    of its measured recall in the shards; a distance above the threshold is then that of the nearest row it found.
    """

    part: Dedup
    pairs: Search = "exact"
    nearest: Search = "exact"
    embedder: Model | None = None

    name = "dedup"
    adds = pa.schema(
        [
            column(
                "min_neighbor_distance",
                pa.float32(),
                "Squared distance of its vector to that of the nearest other row; null where it is alone.",
                published="min_neighbor_distance",
            ),
            column(
                "min_similar_id",
                pa.string(),
                "The id of that nearest row.",
                published="min_similar_uuid",
            ),
            column(
                "repeat_count",
                pa.int32(),
                "How many other rows are nearer than dedup.threshold.",
                published="repeat_count",
            ),
            inner(
                "duplicate_of",
                pa.string(),
                "The kept row, or the row of another dataset, that this one repeats.",
            ),
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

        def choose(setting: Literal["auto", "exact", "approximate"], most_rows: int) -> Search:
            if setting == "auto":
                return "exact" if rows <= most_rows else "approximate"
            return setting

        pairs, nearest = choose(part.method, _EXACT_PAIRS), choose(part.nearest, _EXACT_NEAREST)
        return cls(part, pairs, nearest, embedder)

    @property
    def reads(self) -> tuple[str, ...]:
        """The vectors, what the order of keeping goes by, and the text where the embedder may miss some of it."""
        text = ("instruction",) if self.embedder_reads else ()
        return tuple(dict.fromkeys(("embedding", *_ORDERED_BY[self.part.keep], *text)))

    @property
    def embedder_reads(self) -> bool:
        """Whether the vectors are of a model, which may not be able to read a text, and not of words."""
        return self.embedder is not None and find_engine(self.embedder.engine).capabilities.loads_files

    @property
    def settings(self) -> dict[str, Any]:
        """The threshold, the order of keeping, and how neighbours are searched."""
        # `method` may be `auto`: what it means for this number of rows is in `pairs`. The datasets in `against` are in
        # the fingerprint with a digest of their content, which settings must not read from disk.
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
        against = {str(name): tools.instructions(name).digest for name in self.part.against}
        return {**self.settings, "against": against}

    def bind(self, tools: Tools) -> Deduplicator:
        return self.comparing(tuple(tools.instructions(name) for name in self.part.against))

    def comparing(self, against: tuple[Instructions, ...]) -> Deduplicator:
        """The step's work, with other datasets that were read already."""
        return Deduplicator(
            self.part, self.pairs, self.nearest, self.adds, against, self.embedder, self.embedder_reads
        )
