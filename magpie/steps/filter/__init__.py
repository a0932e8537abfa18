"""What is kept: rules over the columns of a run, then quotas, then a top, all written in DuckDB's SQL.

Rules that read only columns known before `respond` come first, in their order, then the others, whether or not they are
pushed down: so a row is rejected for the same reason either way. A rule is evaluated on the rows that passed the ones
before it, and on no others. A rule whose value is null does not hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.errors import FilterError
from magpie.recipe import Filter, Quotas, Rule, Top
from magpie.steps.base import REJECTED
from magpie.steps.filter.sql import Mask, Positions, RowValues, columns_read

if TYPE_CHECKING:
    from magpie.engines.base import Engine

_GIVEN = {"id", "index", REJECTED.name}  # every step is given these, whatever it reads


def applicable(filter: Filter, schema: pa.Schema) -> tuple[Filter, tuple[str, ...]]:
    """The filter without the `when_present` rules whose columns the run lacks, and what to say of each of those."""
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

    `of` is what an error calls that which lacks a column.
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
        try:
            kind = RowValues(empty, columns_read(expression)).type_of(expression)
        except FilterError as error:
            raise FilterError(f"filter {filter.name!r}: {label} {error}") from error
        if label.startswith("rule ") and kind != "BOOLEAN":
            raise FilterError(
                f"filter {filter.name!r}: {label} is of type {kind}; write a condition that is true or false"
            )


def split(filter: Filter, early: Collection[str]) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    """The rules that read only columns in `early`, those known before `respond`, and the other rules."""
    known = set(early)
    first = [rule for rule in filter.rules if columns_read(rule.where) <= known]
    return tuple(first), tuple(rule for rule in filter.rules if rule not in first)


@dataclass(frozen=True, slots=True)
class PrefilterStep:
    """The rules that need no response, applied before one is paid for."""

    rules: tuple[Rule, ...]

    name = "prefilter"
    version = 1
    adds = pa.schema([REJECTED])

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of the rules."""
        return _reads(rule.where for rule in self.rules)

    @property
    def settings(self) -> dict[str, Any]:
        """The rules."""
        return {"rules": [[rule.name, rule.where] for rule in self.rules]}

    async def run(self, rows: pa.Table, engine: Engine | None) -> pa.Table:
        """Rejects each row that fails a rule, by the first that it fails."""
        verdict = _Verdict.of(rows)
        _apply_rules(self.rules, rows, verdict)
        return verdict.table(rows)


@dataclass(frozen=True, slots=True)
class FilterStep:
    """`rules`, then the quotas and the top of `filter`, over every row of the run.

    `rules` are those still to be applied: all of the filter's, early ones first, or what push-down left of them.
    """

    filter: Filter
    rules: tuple[Rule, ...]

    name = "filter"
    version = 1
    adds = pa.schema([REJECTED])

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of the rules, the quotas and the top."""
        rest = self.filter.model_copy(update={"rules": self.rules})
        return _reads(expression for _, expression in expressions(rest))

    @property
    def settings(self) -> dict[str, Any]:
        """The rules, the quotas and the top; the filter's name and description change no row."""
        rest = self.filter.model_dump(mode="json", include={"quotas", "top"})
        return {"rules": [[rule.name, rule.where] for rule in self.rules], **rest}

    def run_all(self, rows: pa.Table) -> pa.Table:
        """Rejects each row that fails a rule, exceeds a quota or does not reach the top."""
        return _decide(self.filter, self.rules, rows).table(rows)


@dataclass(frozen=True, slots=True)
class FunnelLine:
    """Rows that came to one rule, the rows it lost, and the rows left after it."""

    name: str
    rows_in: int
    lost: int
    left: int


def funnel(filter: Filter, rows: pa.Table, early: Collection[str] = ()) -> tuple[FunnelLine, ...]:
    """How many rows each rule, the quotas and the top lost, from the reasons in `rejected`.

    Rows that an earlier step rejected did not come to the filter and are not counted. `early` are the columns known
    before `respond`: their rules come first, as they do when rows are filtered. The lines add up: what is left after
    one comes to the next. Raises FilterError when `rows` were filtered by another filter.
    """
    counts = {
        pair["values"]: pair["counts"]
        for pair in pc.value_counts(rows[REJECTED.name].combine_chunks()).to_pylist()
    }
    prefix = "filter: "
    lost = {
        reason.removeprefix(prefix): number
        for reason, number in counts.items()
        if reason is not None and reason.startswith(prefix)
    }
    names = [rule.name for rules in split(filter, early) for rule in rules]
    names += [name for name, part in (("quota", filter.quotas), ("top", filter.top)) if part is not None]
    strange = sorted(lost.keys() - set(names))
    if strange:
        raise FilterError(
            f"rows were rejected by {strange[0]!r}, which filter {filter.name!r} does not have; "
            "give the filter that the run was made with"
        )
    rows_in = counts.get(None, 0) + sum(lost.values())
    lines = []
    for name in names:
        left = rows_in - lost.get(name, 0)
        lines.append(FunnelLine(name, rows_in, rows_in - left, left))
        rows_in = left
    return tuple(lines)


def lost_alone(filter: Filter, rows: pa.Table) -> tuple[int | None, ...]:
    """How many rows each rule, the quotas and the top would lose if the filter had nothing else, in their order.

    Quotas alone still follow the order of the top. None for what fails on rows that the rules before it keep from it.
    """
    each = [Filter(rules=(rule,)) for rule in filter.rules]
    if filter.quotas is not None:
        whole = filter.top and filter.top.model_copy(update={"n": max(1, rows.num_rows)})
        each.append(Filter(quotas=filter.quotas, top=whole))
    if filter.top is not None:
        each.append(Filter(top=filter.top))
    came = rows[REJECTED.name].null_count
    lost: list[int | None] = []
    for one in each:
        try:
            verdict = _decide(one, one.rules, rows)
        except FilterError:
            lost.append(None)
        else:
            lost.append(came - int(np.count_nonzero(verdict.live)))
    return tuple(lost)


@dataclass(slots=True)
class _Verdict:
    """Which rows are still in, and why the others are not: 0 for no reason, else a position in `reasons`, plus 1."""

    live: Mask
    reason: np.ndarray[Any, np.dtype[np.int32]]
    reasons: list[str]

    @classmethod
    def of(cls, rows: pa.Table) -> _Verdict:
        live = rows[REJECTED.name].is_null().to_numpy()
        return cls(live.copy(), np.zeros(rows.num_rows, dtype=np.int32), [])

    def reject(self, at: Positions, name: str) -> None:
        self.reasons.append(f"filter: {name}")
        self.reason[at] = len(self.reasons)
        self.live[at] = False

    def table(self, rows: pa.Table) -> pa.Table:
        codes = pa.array(self.reason - 1, mask=self.reason == 0)
        reasons = pa.DictionaryArray.from_arrays(codes, pa.array(self.reasons, pa.string()))
        return pa.table({"id": rows["id"], REJECTED.name: reasons.cast(pa.string())})


def _decide(filter: Filter, rules: Sequence[Rule], rows: pa.Table) -> _Verdict:
    verdict = _Verdict.of(rows)
    _apply_rules(rules, rows, verdict)
    quotas, top = filter.quotas, filter.top
    if quotas is not None or top is not None:
        order = _in_order(top, rows, verdict.live)
        if quotas is not None:
            within = _within_quotas(quotas, rows, order)
            verdict.reject(order[~within], "quota")
            order = order[within]
        if top is not None:
            verdict.reject(order[top.n :], "top")
    return verdict


def _apply_rules(rules: Sequence[Rule], rows: pa.Table, verdict: _Verdict) -> None:
    for rule in rules:
        try:
            passed = RowValues(rows, columns_read(rule.where), verdict.live).values(rule.where)
        except FilterError as error:
            raise _failed(f"rule {rule.name!r}", error) from error
        kept = pc.fill_null(passed, False).to_numpy(zero_copy_only=False)
        verdict.reject(np.flatnonzero(verdict.live & ~kept), rule.name)


def _in_order(top: Top | None, rows: pa.Table, live: Mask) -> Positions:
    """The positions of the rows still in: best first when there is a top, and by index, also among equals."""
    if top is None:
        return RowValues(rows, frozenset(), live).order()
    try:
        return RowValues(rows, columns_read(top.by), live).order(top.by, descending=top.order == "desc")
    except FilterError as error:
        raise _failed("`top.by`", error) from error


def _within_quotas(quotas: Quotas, rows: pa.Table, order: Positions) -> Mask:
    """For each row of `order`, whether its value's quota is not yet used up by the rows before it."""
    live = np.zeros(rows.num_rows, dtype=np.bool_)
    live[order] = True
    try:
        values = RowValues(rows, columns_read(quotas.by), live).values(f"CAST(({quotas.by}\n) AS VARCHAR)")
    except FilterError as error:
        raise _failed("`quotas.by`", error) from error
    encoded = pc.dictionary_encode(values, null_encoding="encode")
    no_limit = rows.num_rows
    each = no_limit if quotas.each is None else quotas.each
    limits = np.array(
        [min(quotas.counts.get(value, each), no_limit) for value in encoded.dictionary.to_pylist()],
        dtype=np.int64,
    )
    codes = encoded.indices.to_numpy()[order]
    grouped = np.argsort(codes, kind="stable")
    first = np.searchsorted(codes[grouped], codes[grouped])
    before = np.empty(len(order), dtype=np.int64)
    before[grouped] = np.arange(len(order)) - first
    return np.asarray(before < limits[codes], dtype=np.bool_)


def expressions(filter: Filter) -> Iterator[tuple[str, str]]:
    """Each expression of the filter, and what to call it in an error."""
    for rule in filter.rules:
        yield f"rule {rule.name!r}", rule.where
    if filter.quotas is not None:
        yield "`quotas.by`", filter.quotas.by
    if filter.top is not None:
        yield "`top.by`", filter.top.by


def _columns(filter: Filter, label: str, expression: str) -> frozenset[str]:
    try:
        return columns_read(expression)
    except FilterError as error:
        raise FilterError(f"filter {filter.name!r}: {label} {error}") from error


def _reads(expressions: Iterable[str]) -> tuple[str, ...]:
    """The columns to read for the expressions, beside those every step is given, sorted."""
    return tuple(sorted(frozenset().union(*map(columns_read, expressions)) - _GIVEN))


def _nearest(column: str, known: Sequence[str]) -> str:
    close = get_close_matches(column, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(known)}"


def _failed(label: str, error: FilterError) -> FilterError:
    return FilterError(
        f"filter {label} {error}; mend it, for example with TRY_CAST, and run the same command again"
    )
