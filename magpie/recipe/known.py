"""The section `known`: datasets that the generator may have been trained on, or that are public anyhow."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from magpie.recipe.base import Section, Text
from magpie.recipe.datasets import NamedDataset, as_list
from magpie.recipe.decontaminate import PARAPHRASE


class Known(Section):
    """Finds the rows that are near copies of rows of datasets you name, and shows them in the report and on the card.

    A model that writes its own prompts writes some of its training data again. Matching words finds a tenth of that
    (arXiv 2510.18554), so instructions are compared by their vectors. No dataset is shipped.
    """

    datasets: tuple[Text | NamedDataset, ...] = Field(min_length=1)
    """The datasets: runs, files (Parquet, JSON, CSV, text; .gz and .zst too), or hub datasets (ORG/NAME).

    `NAME:SPLIT` names a split, and `{path: earlier.csv, column: task}` the column. A relative path is looked up in the
    working directory first, then in the folder of the recipe file.
    """
    distance: float = Field(default=PARAPHRASE, gt=0, le=4)
    """A row that is nearer than this to a row of theirs is a near copy. A squared L2 distance."""
    drop: bool = False
    """Reject near copies. Otherwise they stay, and are only shown."""

    @field_validator("datasets", mode="before")
    @classmethod
    def _accept_single_dataset(cls, datasets: Any) -> Any:
        return as_list(datasets)

    def check(self, recipe: Any) -> None:
        """Near copies are found by their vectors."""
        if recipe.embed is None:
            raise ValueError(
                "`known` needs `embed`, which is switched off; switch it on, or leave `known` out"
            )
