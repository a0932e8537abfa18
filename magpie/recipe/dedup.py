"""The section `dedup`: rows that repeat other rows."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from magpie.recipe.base import Section, Text
from magpie.recipe.datasets import NamedDataset, as_list


class Dedup(Section):
    """Rejects rows whose instruction is nearly the same as that of a row that is kept.

    What an approximate search misses is measured, shown, and stored with the shards.
    """

    threshold: float = Field(default=0.05, ge=0, le=4)
    """Two rows are repeats when the squared L2 distance of their vectors is below this.

    0.05 is the published threshold (arXiv 2406.08464): a cosine similarity above 0.975.
    """
    keep: Literal["first", "longest", "best_quality"] = "first"
    """Which row of several repeats is kept: the first, the longest instruction, or the best `input_quality`."""
    method: Literal["auto", "exact", "approximate"] = "auto"
    """How repeats are searched. `exact` finds all of them; `approximate` is faster and finds nearly all.

    `auto` is exact up to 2 million rows.
    """
    nearest: Literal["auto", "exact", "approximate"] = "auto"
    """How `min_neighbor_distance` is computed for rows that have no repeat. `auto` is exact up to 100,000 rows."""
    against: tuple[Text | NamedDataset, ...] = ()
    """Other datasets: rows that repeat one of their instructions are rejected too.

    Use it to add rows to an earlier dataset, or to keep the questions of a benchmark out. Each is a run, a file
    (Parquet, JSON, CSV, text; .gz and .zst too), or a hub dataset (ORG/NAME). `NAME:SPLIT` names a split, and
    `{path: earlier.csv, column: task}` the column. A relative path is looked up in the working directory first, then
    in the folder of the recipe file.
    """

    @field_validator("against", mode="before")
    @classmethod
    def _accept_single_dataset(cls, against: Any) -> Any:
        return as_list(against)

    @model_validator(mode="after")
    def _check_threshold(self) -> Dedup:
        if self.against and self.threshold == 0:
            raise ValueError("`against` finds nothing within a threshold of 0; set `threshold` above 0")
        return self

    def check(self, recipe: Any) -> None:
        """Repeats are found by their vectors."""
        if recipe.embed is None:
            raise ValueError("`dedup` needs `embed`, which is switched off; switch off both or neither")
