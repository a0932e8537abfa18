"""A filter applied to rows: rules in their order, then quotas, then the top; and how many rows each of them lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.errors import FilterError
from magpie.recipe import Filter, Quotas, Rule, Top
from magpie.steps.base import REJECTED
from magpie.steps.base.scales import SCALES
from magpie.steps.filter.rules import split
from magpie.steps.filter.sql import Mask, Positions, RowValues, columns_read

_PREFIX = "filter: "


@dataclass(frozen=True, slots=True)
class FunnelLine:
    """How many rows one rule was applied to, how many it rejected (`lost`), and how many were left."""

    name: str
    rows_in: int
    lost: int
    left: int


def funnel(filter: Filter, rows: pa.Table, early: Collection[str] = ()) -> tuple[FunnelLine, ...]:
    """How many rows each rule, the quotas and the top lost, from the reasons in `rejected`.

    Rows that an earlier step rejected are not counted. `early` are the columns known before `respond`: their rules come
    first, as they do when rows are filtered. The rows left after one line are the rows in of the next. Raises
    FilterError when `rows` were filtered by another filter.
    """
    counts = {
        pair["values"]: pair["counts"]
        for pair in pc.value_counts(rows[REJECTED.name].combine_chunks()).to_pylist()
    }
    lost = {
        reason: number
        for reason, number in counts.items()
        if reason is not None and reason.startswith(_PREFIX)
    }
    rules = [rule.name for part in split(filter, early) for rule in part]
    unknown = sorted(lost.keys() - {reason_of(name) for name in (*rules, *_limits(filter))})
    if unknown:
        raise FilterError(
            f"rows were rejected by {unknown[0].removeprefix(_PREFIX)!r}, which filter {filter.name!r} does not have; "
            "give the filter that the run was made with"
        )
    return funnel_lines(filter, rules, lost, left=counts.get(None, 0))


def funnel_lines(
    filter: Filter, rules: Sequence[str], lost: Mapping[str, int], *, left: int
) -> tuple[FunnelLine, ...]:
    """The funnel of `rules`, the quotas and the top, from the rows that each reason lost and the rows left at last."""
    names = [*rules, *_limits(filter)]
    counts = [lost.get(reason_of(name), 0) for name in names]
    # From the end: rows that other steps rejected between two rules are in none of these counts, and so in no line.
    rows_in = left + sum(counts)
    lines = []
    for name, count in zip(names, counts, strict=True):
        lines.append(FunnelLine(name, rows_in, count, rows_in - count))
        rows_in -= count
    return tuple(lines)


def _limits(filter: Filter) -> list[str]:
    """The names of the quotas and the top in the funnel, as far as the filter has them."""
    return [name for name, part in (("quota", filter.quotas), ("top", filter.top)) if part is not None]


def reason_of(rule: str) -> str:
    """The reason that a rule, or "quota" or "top", gives in `rejected`."""
    return f"{_PREFIX}{rule}"


def is_reason_of_filter(reasons: pa.ChunkedArray) -> Any:
    """Which of the reasons a filter gave: true, false, or null where a row is not rejected."""
    return pc.starts_with(reasons, _PREFIX)


@dataclass(frozen=True, slots=True)
class QuotaGroup:
    """The rows of one value: its quota, None where it has none, how many rows came to it, and how many it kept."""

    value: str | None
    quota: int | None
    came: int
    kept: int


def quota_groups(filter: Filter, rows: pa.Table, reasons: pa.ChunkedArray) -> tuple[QuotaGroup, ...]:
    """What the quotas did to each value; `reasons` say why each row is out. Values that no row has come last."""
    quotas = filter.quotas
    if quotas is None:
        return ()
    later = pa.array([reason_of("quota"), reason_of("top")])
    came = pc.or_(pc.is_null(reasons), pc.fill_null(pc.is_in(reasons, later), False)).to_numpy()
    over = pc.fill_null(pc.equal(reasons, reason_of("quota")), False).to_numpy()
    at = np.flatnonzero(came)
    values = RowValues(rows, columns_read(quotas.by), came).values(f"CAST(({quotas.by}\n) AS VARCHAR)")
    texts = values.to_pylist()
    all_of, kept = (
        Counter(texts[place] for place in at),
        Counter(texts[place] for place in at if not over[place]),
    )
    names = [
        *sorted(all_of, key=lambda value: (-all_of[value], value or "")),
        *(quotas.counts.keys() - all_of.keys()),
    ]
    return tuple(
        QuotaGroup(value, quotas.counts.get(value, quotas.each), all_of[value], kept[value])
        for value in names
    )


def values_of_no_row(filter: Filter, rows: pa.Table) -> tuple[str, ...]:
    """The values in `quotas.counts` that no row has, whatever the rules say of it: most often they are mistyped.

    What a judge's scale has is no mistake: `check` has looked at those.
    """
    quotas = filter.quotas
    if quotas is None or not quotas.counts or not rows.num_rows or quotas.by.strip() in SCALES:
        return ()
    everywhere = np.ones(rows.num_rows, dtype=np.bool_)
    try:
        values = RowValues(rows, columns_read(quotas.by), everywhere).values(
            f"CAST(({quotas.by}\n) AS VARCHAR)"
        )
    except FilterError:
        return ()  # of rows that the rules leave out, it may have no value
    there = set(pc.unique(values).to_pylist())
    return tuple(value for value in quotas.counts if value not in there)


def lost_alone(filter: Filter, rows: pa.Table) -> tuple[int | None, ...]:
    """How many rows each rule, the quotas and the top would lose if the filter had nothing else, in their order.

    None for a rule that cannot be evaluated without the rules before it.
    """
    parts = [Filter(rules=(rule,)) for rule in filter.rules]
    if filter.quotas is not None:
        # Quotas keep the best rows by the order of the top: a top that keeps all rows gives the order and no more.
        order_only = filter.top and filter.top.model_copy(update={"n": max(1, rows.num_rows)})
        parts.append(Filter(quotas=filter.quotas, top=order_only))
    if filter.top is not None:
        parts.append(Filter(top=filter.top))
    rows_in = rows[REJECTED.name].null_count
    lost: list[int | None] = []
    for part in parts:
        try:
            decision = decide(part, part.rules, rows)
        except FilterError:
            # Such as a CAST that fails on rows which a rule before it excludes.
            lost.append(None)
        else:
            lost.append(rows_in - int(np.count_nonzero(decision.live)))
    return tuple(lost)


@dataclass(slots=True)
class Decision:
    """Which rows are still in, and why the others are not: 0 for no reason, else a position in `reasons`, plus 1."""

    live: Mask
    reason: np.ndarray[Any, np.dtype[np.int32]]
    reasons: list[str]

    @classmethod
    def of(cls, rows: pa.Table) -> Decision:
        live = rows[REJECTED.name].is_null().to_numpy()
        # A copy, because NumPy may not write into an array of Arrow.
        return cls(live.copy(), np.zeros(rows.num_rows, dtype=np.int32), [])

    def reject(self, at: Positions, name: str) -> None:
        self.reasons.append(reason_of(name))
        self.reason[at] = len(self.reasons)
        self.live[at] = False

    def table(self, rows: pa.Table) -> pa.Table:
        codes = pa.array(self.reason - 1, mask=self.reason == 0)
        reasons = pa.DictionaryArray.from_arrays(codes, pa.array(self.reasons, pa.string()))
        return pa.table({"id": rows["id"], REJECTED.name: reasons.cast(pa.string())})


def decide(filter: Filter, rules: Sequence[Rule], rows: pa.Table) -> Decision:
    """Apply `rules`, then the quotas and the top of `filter`, to the rows that are still in. Raises FilterError."""
    decision = Decision.of(rows)
    apply_rules(rules, rows, decision)
    quotas, top = filter.quotas, filter.top
    if quotas is not None or top is not None:
        order = _in_order(top, rows, decision.live)
        if quotas is not None:
            best_first = (
                order if quotas.order is None else _by(quotas.order, rows, decision.live, "`quotas.order`")
            )
            within = _within_quotas(quotas, rows, best_first)
            decision.reject(best_first[~within], "quota")
            order = order[decision.live[order]]
        if top is not None:
            decision.reject(order[top.n :], "top")
    return decision


def apply_rules(rules: Sequence[Rule], rows: pa.Table, decision: Decision) -> None:
    """Reject what fails a rule, in their order: a rule is evaluated on the rows that passed those before it."""
    for rule in rules:
        try:
            passed = RowValues(rows, columns_read(rule.where), decision.live).values(rule.where)
        except FilterError as error:
            raise _failed(f"rule {rule.name!r}", error) from error
        kept = pc.fill_null(passed, False).to_numpy(zero_copy_only=False)
        decision.reject(np.flatnonzero(decision.live & ~kept), rule.name)


def _in_order(top: Top | None, rows: pa.Table, live: Mask) -> Positions:
    """The positions of the rows still in: by the top where there is one, best first; equal rows by `index`."""
    if top is None:
        return RowValues(rows, frozenset(), live).order()
    return _by(top.by, rows, live, "`top.by`", descending=top.order == "desc")


def _by(expression: str, rows: pa.Table, live: Mask, label: str, *, descending: bool = True) -> Positions:
    """The positions of the rows still in, by an expression; equal rows by `index`."""
    try:
        return RowValues(rows, columns_read(expression), live).order(expression, descending=descending)
    except FilterError as error:
        raise _failed(label, error) from error


def _within_quotas(quotas: Quotas, rows: pa.Table, order: Positions) -> Mask:
    """For each row of `order`, whether its value's quota is not yet used up by the rows before it."""
    live = np.zeros(rows.num_rows, dtype=np.bool_)
    live[order] = True
    # As text, since `quotas.counts` has texts as keys. The line break ends a `--` comment in the expression.
    try:
        values = RowValues(rows, columns_read(quotas.by), live).values(f"CAST(({quotas.by}\n) AS VARCHAR)")
    except FilterError as error:
        raise _failed("`quotas.by`", error) from error
    # Rows without a value are a group like any other.
    encoded = pc.dictionary_encode(values, null_encoding="encode")
    no_limit = rows.num_rows
    each = no_limit if quotas.each is None else quotas.each
    limits = np.array(
        [min(quotas.counts.get(value, each), no_limit) for value in encoded.dictionary.to_pylist()],
        dtype=np.int64,
    )
    codes = encoded.indices.to_numpy()[order]
    # Sorted by value, stably, so that each group keeps the order. A row's place in the sorted list less the place where
    # its group begins is how many rows of the same value come before it.
    grouped = np.argsort(codes, kind="stable")
    first = np.searchsorted(codes[grouped], codes[grouped])
    before = np.empty(len(order), dtype=np.int64)
    before[grouped] = np.arange(len(order)) - first
    return np.asarray(before < limits[codes], dtype=np.bool_)


def _failed(label: str, error: FilterError) -> FilterError:
    return FilterError(
        f"filter {label} {error}; mend it, for example with TRY_CAST, and run the same command again"
    )
