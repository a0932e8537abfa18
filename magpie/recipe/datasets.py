"""Datasets that a recipe names: by a name alone, or with the column and the split to read."""

from __future__ import annotations

from typing import Any

from magpie.recipe.base import Part, Text


class NamedDataset(Part):
    """A dataset that was made elsewhere, where its name alone does not say what to read of it."""

    path: Text
    """A run, a file of records, a folder of such files, or a hub dataset (ORG/NAME). It may end in `:SPLIT`."""
    column: Text | None = None
    """The column with the questions: texts, or lists of messages. null looks for one by its name."""
    split: Text | None = None
    """The split to read, or `all`. null reads train, or else the first there is."""

    def __str__(self) -> str:
        return self.path if self.split is None else f"{self.path}:{self.split}"


def as_list(written: Any) -> Any:
    """A single dataset, as a list of one."""
    return (written,) if isinstance(written, str | dict) else written
