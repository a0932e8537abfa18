"""What a recipe says of likeness: vectors, repeats, and what evaluation sets ask."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from magpie.recipe.base import Part, Text


class Embed(Part):
    """Turns each instruction into a vector of length 1."""

    model: str = "embedder"
    batch_size: int = Field(default=128, ge=1)


class Dedup(Part):
    """Rejects repeats: rows within `threshold`, a squared L2 distance of unit vectors, of a kept row.

    0.05 is the published threshold (arXiv 2406.08464): a cosine similarity above 0.975.

    `keep` is the order in which rows are considered: as they come, longest instruction first, or best `input_quality`
    first. `method: exact` finds all near pairs, `approximate` nearly all of them sooner; `auto` is exact up to two
    million rows. `nearest` says the same of `min_neighbor_distance` where it is above the threshold; `auto` is exact up
    to 100,000 rows. What an approximate search misses is measured, shown and kept with the shards.

    Rows as near to an instruction of another dataset are rejected too: `against` lists runs, .parquet, .jsonl and .json
    files, and hub datasets (ORG/NAME or ORG/NAME:SPLIT). For adding to an earlier build, and for keeping a benchmark's
    questions out. A relative path is looked for in the working directory, then beside the recipe's own file.
    """

    threshold: float = Field(default=0.05, ge=0, le=4)
    keep: Literal["first", "longest", "best_quality"] = "first"
    method: Literal["auto", "exact", "approximate"] = "auto"
    nearest: Literal["auto", "exact", "approximate"] = "auto"
    against: tuple[Text, ...] = ()

    @field_validator("against", mode="before")
    @classmethod
    def _is_one_or_several(cls, against: Any) -> Any:
        return (against,) if isinstance(against, str) else against

    @model_validator(mode="after")
    def _is_near_something(self) -> Dedup:
        if self.against and self.threshold == 0:
            raise ValueError("`against` finds nothing within a threshold of 0; set `threshold` above it")
        return self


class Decontaminate(Part):
    """Rejects rows that hold what evaluation sets ask.

    `files` are runs, .parquet, .jsonl and .json files, or hub datasets, as in `dedup.against`. A row is out when it
    shares `ngram` words in a row with one of their instructions (13 in the report on GPT-3, arXiv 2005.14165), where a
    character of Chinese or Japanese counts as a word; where `distance` is given, also when it is nearer to one than
    that squared L2 distance of unit vectors.
    """

    files: tuple[Text, ...] = Field(min_length=1)
    ngram: int = Field(default=13, ge=3)
    distance: float | None = Field(default=None, gt=0, le=4)

    @field_validator("files", mode="before")
    @classmethod
    def _is_one_or_several(cls, files: Any) -> Any:
        return (files,) if isinstance(files, str) else files
