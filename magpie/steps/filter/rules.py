"""A filter before it is applied: which columns its expressions read, whether they are valid, which rules come first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import pyarrow as pa

from magpie.errors import FilterError
from magpie.recipe import Filter, Rule
from magpie.recipe.problems import nearest
from magpie.steps.base import REJECTED
from magpie.steps.base.scales import SCALES
from magpie.steps.filter.sql import RowValues, columns_read

_ALWAYS_GIVEN = {"id", "index", REJECTED.name}  # every step is given these, whatever it reads


def applicable(filter: Filter, schema: pa.Schema) -> tuple[Filter, tuple[str, ...]]:
    """The filter without the `when_present` rules whose columns the run lacks, and a text that names each of those."""
    kept, skipped = [], []
    for rule in filter.rules:
        missing = sorted(_columns(filter, f"rule {rule.name!r}", rule.where) - set(schema.names))
        if rule.when_present and missing:
            skipped.append(f"{rule.name} (reads {', '.join(missing)})")
        else:
            kept.append(rule)
    return filter.model_copy(update={"rules": tuple(kept)}), tuple(skipped)


def check(filter: Filter, schema: pa.Schema, *, of: str = "the run") -> None:
    """Raise FilterError unless every rule, `quotas.by` and `top.by` can be evaluated on rows of `schema`.

    `of` is what an error calls the thing that lacks a column.
    """
    names = [rule.name for rule in filter.rules]
    for name in names:
        if name in {"quota", "top"} or names.count(name) > 1:
            raise FilterError(
                f"filter {filter.name!r}: two things are called {name!r}; give each rule a name of its own, "
                "other than `quota` and `top`, so that the funnel can tell them apart"
            )
    empty = schema.empty_table()
    for label, expression in expressions(filter):
        columns = _columns(filter, label, expression)
        unknown = sorted(columns - set(schema.names))
        if unknown:
            raise FilterError(
                f"filter {filter.name!r}: {label} reads {unknown[0]!r}, a column {of} does not have"
                f"{_nearest(unknown[0], schema.names)}"
            )
        if REJECTED.name in columns:
            raise FilterError(
                f"filter {filter.name!r}: {label} reads `rejected`, why a row is out, which is null in all that come "
                "to the filter; the answer a pair rejects is `rejected_response`"
            )
        # On no rows DuckDB still binds names and types, so that wrong types are found here, not after hours of work.
        try:
            kind = RowValues(empty, columns_read(expression)).type_of(expression)
        except FilterError as error:
            raise FilterError(f"filter {filter.name!r}: {label} {error}") from error
        if label.startswith("rule ") and kind != "BOOLEAN":
            raise FilterError(
                f"filter {filter.name!r}: {label} is of type {kind}; write a condition that is true or false"
            )

    _check_values(filter)


def _check_values(filter: Filter) -> None:
    """Raise FilterError for a value in `quotas.counts` that no judge gives, such as a mistyped category."""
    if filter.quotas is None:
        return
    column = filter.quotas.by.strip()
    scale = SCALES.get(column, ())
    for value in filter.quotas.counts if scale else ():
        if value not in scale:
            raise FilterError(
                f"filter {filter.name!r}: `quotas.counts` names {value!r}, which is no {column}{_nearest(value, scale)}"
            )


def split(filter: Filter, early: Collection[str]) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    """The rules that read only columns in `early`, those known before `respond`, and the other rules."""
    first = [rule for rule in filter.rules if columns_read(rule.where) <= set(early)]
    return tuple(first), tuple(rule for rule in filter.rules if rule not in first)


def expressions(filter: Filter) -> Iterator[tuple[str, str]]:
    """Each expression of the filter, and what to call it in an error."""
    for rule in filter.rules:
        yield f"rule {rule.name!r}", rule.where
    if filter.quotas is not None:
        yield "`quotas.by`", filter.quotas.by
        if filter.quotas.order is not None:
            yield "`quotas.order`", filter.quotas.order
    if filter.top is not None:
        yield "`top.by`", filter.top.by


def _columns(filter: Filter, label: str, expression: str) -> frozenset[str]:
    try:
        return columns_read(expression)
    except FilterError as error:
        raise FilterError(f"filter {filter.name!r}: {label} {error}") from error


def columns_of(expressions: Iterable[str]) -> tuple[str, ...]:
    """The columns to read for the expressions, beside those every step is given, sorted."""
    return tuple(sorted(frozenset().union(*map(columns_read, expressions)) - _ALWAYS_GIVEN))


def _nearest(column: str, columns: Sequence[str]) -> str:
    close = nearest(column, columns)
    return f"; did you mean {close!r}?" if close else f"; it has {', '.join(columns)}"
