"""What is kept of a run: rules, quotas and a top."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from magpie.recipe.base import Part


class Rule(Part):
    """A row is kept when `where`, a DuckDB predicate over the run's columns, is true. Null counts as false.

    A run without a column of `where` is an error; with `when_present`, the rule is left out of such a run, and the
    plan says so.
    """

    name: str
    where: str
    when_present: bool = False


class Top(Part):
    """Keep the `n` rows with the largest (`order: asc`, smallest) `by`, a column or expression."""

    by: str
    n: int = Field(ge=1)
    order: Literal["desc", "asc"] = "desc"


class Quotas(Part):
    """At most so many rows for each value of `by`: `each` for every value, or `counts` value by value.

    A value that is not in `counts` has the quota `each`, or none where `each` is not given; `each: 0` drops it.
    """

    by: str
    each: int | None = Field(default=None, ge=0)
    counts: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _says_how_many(self) -> Quotas:
        if self.each is None and not self.counts:
            raise ValueError("needs `each` or `counts`")
        return self


class Filter(Part):
    """What is kept of a run: rules in order, then quotas, then the top."""

    name: str = "filter"
    description: str = ""
    rules: tuple[Rule, ...] = ()
    quotas: Quotas | None = None
    top: Top | None = None
