"""The section `decontaminate`: rows that hold questions of evaluation sets."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from magpie.recipe.base import Section, Text
from magpie.recipe.datasets import NamedDataset, as_list

PARAPHRASE = 0.5
"""The squared L2 distance within which a question in other words lies of the question, by the embedder that ships.

Measured on 40 planted paraphrases and 40 other questions on the same subjects: see `benchmarks/paraphrases.py`.
"""


class Decontaminate(Section):
    """Rejects rows whose instruction overlaps with a question of an evaluation set."""

    files: tuple[Text | NamedDataset, ...] = Field(min_length=1)
    """The evaluation sets: runs, files (Parquet, JSON, CSV, text; .gz and .zst too), or hub datasets (ORG/NAME).

    Every question of the user is compared, those of later turns too. `NAME:SPLIT` names a split, and
    `{path: exam.csv, column: task}` the column. A relative path is looked up in the working directory first, then in
    the folder of the recipe file.
    """
    ngram: int = Field(default=13, ge=3)
    """Reject a row that has this many consecutive words in common with a question.

    A Chinese or Japanese character counts as one word. 13 is from the GPT-3 paper (arXiv 2005.14165).
    """
    distance: float | None = Field(default=None, gt=0, le=4)
    """Also reject a row whose vector is closer than this to that of a question. A squared L2 distance.

    `paraphrase` is the distance that was measured for questions in other words (`python -m benchmarks.paraphrases`).
    null compares words only.
    """

    @field_validator("distance", mode="before")
    @classmethod
    def _accept_a_word(cls, distance: Any) -> Any:
        return PARAPHRASE if distance == "paraphrase" else distance

    @field_validator("files", mode="before")
    @classmethod
    def _accept_single_file(cls, files: Any) -> Any:
        return as_list(files)

    def check(self, recipe: Any) -> None:
        """A distance is measured between vectors."""
        if self.distance is not None and recipe.embed is None:
            raise ValueError(
                "`decontaminate.distance` needs `embed`, which is switched off; switch it on, or leave `distance` out"
            )
