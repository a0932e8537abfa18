"""The section `steps`: steps of your own, which are Python functions."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, JsonValue, field_validator

from magpie.recipe.base import Part, Text

_COLUMN = re.compile(r"[a-z][a-z0-9_]*")

ColumnType = Literal["text", "number", "whole", "truth", "texts"]


class CustomColumn(Part):
    """A column that a step of your own adds."""

    type: ColumnType
    """`text`, `number` (64 bits), `whole` (a whole number), `truth` (true or false) or `texts` (a list of texts)."""
    meaning: str = ""
    """What it says of a row, in one sentence."""


class StepFacts(Part):
    """What a step of your own says of itself. magpie writes it when the code is read: a run opens without it."""

    name: Text
    """The name of the step: that of the function."""
    reads: tuple[Text, ...] = ()
    """The columns that it is given, besides `id`, `index` and `rejected`."""
    adds: dict[str, CustomColumn] = Field(default_factory=dict)
    """The columns that it adds, or writes anew."""
    rejects: bool = False
    """Whether it may reject rows."""
    source: Text
    """A digest of the source of its module or package: other code makes another run."""

    @field_validator("adds")
    @classmethod
    def _check_names(cls, adds: dict[str, CustomColumn]) -> dict[str, CustomColumn]:
        wrong = next((name for name in adds if not _COLUMN.fullmatch(name)), None)
        if wrong is not None:
            raise ValueError(f"the column {wrong!r} must be named in lower-case letters, digits and `_`")
        return adds


class CustomStep(Part):
    """A Python function that looks at one row after the other. It runs only in a build with `--allow-code`."""

    use: Text
    """The function: `module:function`, `file.py:function`, or the name of an entry point in the group `magpie.steps`.

    A file is looked up in the working directory first, then in the folder of the recipe file.
    """
    after: Text
    """The step behind which it comes, such as `clean` or `respond`."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """What the function is given besides the row, by the names of its arguments."""
    facts: StepFacts | None = None
    """Written by magpie, and left out by people."""
