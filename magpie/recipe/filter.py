"""The section `filter`, and the files in `filters/`: which rows are kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from magpie.recipe.base import FileName, Part, Section, ShapesNoRows


class Rule(Part):
    """One condition that every kept row fulfils."""

    name: str
    """What the rule is called in the funnel and in reports."""
    where: str
    """A DuckDB predicate over the columns of the run. The row is kept if it is true; null counts as false."""
    when_present: bool = False
    """If the run lacks a column that `where` reads: true skips the rule, and the plan says so; false is an error."""


class Top(Part):
    """Keep the `n` rows that have the largest values of `by`."""

    by: str
    """A column, or a DuckDB expression."""
    n: int = Field(ge=1)
    """How many rows to keep."""
    order: Literal["desc", "asc"] = "desc"
    """`desc` keeps the largest values, `asc` the smallest."""


class Quotas(Part):
    """Keep at most a given number of rows for each value of `by`."""

    by: str
    """A column, or a DuckDB expression."""
    each: int | None = Field(default=None, ge=0)
    """The most rows for every value that is not in `counts`. 0 drops such rows; null keeps all of them."""
    counts: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    """The most rows for single values, such as {Math: 500}."""
    order: str | None = None
    """Which rows of a value are kept: those with the largest values of this column, or DuckDB expression.

    null takes them in the order of `top`; without `top`, the first.
    """

    @model_validator(mode="after")
    def _check_not_empty(self) -> Quotas:
        if self.each is None and not self.counts:
            raise ValueError("needs `each` or `counts`")
        return self


class Filter(Section):
    """Which rows are kept: first the rules, in their order, then the quotas, then the top."""

    name: Annotated[FileName, ShapesNoRows()] = "filter"
    """The name of the filter, and of the folder for what it keeps. For a file, its file name if none is given."""
    description: Annotated[str, ShapesNoRows()] = ""
    """One sentence about what the filter keeps."""
    rules: tuple[Rule, ...] = ()
    """Conditions that every kept row fulfils."""
    quotas: Quotas | None = None
    """The most rows for each value of a column: the best by `order`, else by `top`, else the first."""
    top: Top | None = None
    """Keep only the rows with the largest values of a column."""
