"""Filtering the rows of a finished run or of a dataset: what is kept, what each rule loses, how two filters compare.

Only the columns that the filter reads are held in memory. The other columns of kept rows are read as they are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.dataset import DatasetFiles
from magpie.errors import FilterError
from magpie.recipe import Filter
from magpie.steps.base import REJECTED
from magpie.steps.filter import (
    FilterStep,
    FunnelLine,
    QuotaGroup,
    applicable,
    check,
    decide,
    expressions,
    funnel,
    lost_alone,
    quota_groups,
    reason_of,
    values_of_no_row,
)
from magpie.steps.filter.sql import columns_read
from magpie.storage import open_storage
from magpie.storage.sealed import digest

EXAMPLES = 3
FILTERS = "filters"
"""What a manifest calls the filters that chose the rows from those of their run, in the order they were applied."""


class RowSource(Protocol):
    """Rows to filter: those of a finished run, or of a dataset."""

    what: str
    """What an error calls it, such as "the run"."""

    @property
    def name(self) -> str:
        """The name of the run or dataset."""

    @property
    def about(self) -> Mapping[str, Any]:
        """Where the rows come from, for the manifest of what is kept; empty where that is not known."""

    @property
    def schema(self) -> pa.Schema:
        """Every column that a rule may read."""

    def columns(self, names: Sequence[str]) -> pa.Table:
        """`id`, `index`, `rejected` and the named columns of every row."""

    def kept(self, rejected: pa.ChunkedArray) -> Iterator[pa.Table]:
        """The rows whose `rejected` is null, with all their columns."""

    def texts(self, at: Sequence[int]) -> dict[int, tuple[str, str]]:
        """The id and the instruction of the rows at these positions."""

    def refuse(self, out: Path) -> None:
        """Raise RunError when `out` is the folder of the rows themselves."""

    def never_answered(self, rows: pa.Table) -> int:
        """How many rows an earlier filter dropped before they were answered."""


@dataclass(frozen=True, slots=True)
class Explained:
    """A line of the funnel, the rows its rule alone would lose, and the first rows it lost as (id, instruction).

    `alone` is None for a rule that fails on rows which the rules before it keep from it.
    """

    line: FunnelLine
    alone: int | None
    examples: tuple[tuple[str, str], ...]

    @property
    def share(self) -> float | None:
        """`line.lost` over `alone`: below 1 where rules before it rejected some of the same rows."""
        return self.line.lost / self.alone if self.alone else None


@dataclass(frozen=True, slots=True)
class Refiltered:
    """The result of another filter on a run or a dataset: rows kept, the funnel, and the names of the rules left out.

    `explained` is the same funnel with more figures, where `explain` was set. `never_answered` rows were dropped by the
    build's own filter before they were answered: they are out here too, whatever this filter says.
    """

    kept: int
    never_answered: int
    lines: tuple[FunnelLine, ...]
    skipped: tuple[str, ...]
    what: str = "the run"
    explained: tuple[Explained, ...] = ()
    groups: tuple[QuotaGroup, ...] = ()
    """What the quotas did to each value; none without quotas."""


@dataclass(frozen=True, slots=True)
class FilterComparison:
    """Two filters over the same `rows`: how many rows both keep, only one of them, and neither.

    `never_answered` further rows were dropped by the build's own filter before they were answered.
    """

    names: tuple[str, str]
    rows: int
    both: int
    only: tuple[int, int]
    skipped: tuple[tuple[str, ...], tuple[str, ...]]
    what: str = "the run"
    never_answered: int = 0

    @property
    def neither(self) -> int:
        """Rows that neither filter keeps."""
        return self.rows - self.both - sum(self.only)

    @property
    def jaccard(self) -> float | None:
        """Rows kept by both over rows kept by either; None when neither keeps any."""
        either = self.both + sum(self.only)
        return self.both / either if either else None


def refilter(rows: RowSource, other: Filter, out: Path | None = None, *, explain: bool = False) -> Refiltered:
    """Apply `other` to `rows`, and write the rows it keeps to `out`: a new folder, or that of an earlier result.

    Without `out`, nothing is written. Raises FilterError, DamagedShardError, RecipeError, and RunError when `out` holds
    other files.
    """
    # A wrong folder is refused before the work.
    files = None if out is None else DatasetFiles(open_storage(out))
    if out is not None and files is not None:
        rows.refuse(out)
        files.refuse_other_things()
    decided = _decide(rows, other)
    lines = funnel(decided.filter, pa.table({REJECTED.name: decided.reasons}), rows.schema.names)
    kept = decided.reasons.null_count
    explained = _explain(rows, decided, lines) if explain else ()
    if files is not None:
        files.storage.prepare()  # not before: a filter that fails leaves nothing behind
        files.storage.sweep()  # what an earlier one left that was killed
        made_from = digest({"run": rows.name, "filter": _as_before(decided.filter.model_dump(mode="json"))})
        about = dict(rows.about) | {FILTERS: [*rows.about.get(FILTERS, []), _record(decided.filter, lines)]}
        files.write(rows.kept(decided.reasons), kept, name=rows.name, made_from=made_from, about=about)
    never = rows.never_answered(decided.rows)
    groups = quota_groups(decided.filter, decided.rows, decided.reasons)
    return Refiltered(kept, never, lines, decided.skipped, rows.what, explained, groups)


def _record(filter: Filter, lines: Sequence[FunnelLine]) -> dict[str, Any]:
    """The filter and what each of its rules lost, for the manifest."""
    return {**filter.model_dump(mode="json", exclude_none=True), "funnel": [asdict(line) for line in lines]}


def _as_before(filter: dict[str, Any]) -> dict[str, Any]:
    """The filter without settings that are newer than results which must stay the same to the byte."""
    if filter["quotas"] is not None and filter["quotas"]["order"] is None:
        del filter["quotas"]["order"]
    return filter


def compare_filters(rows: RowSource, one: Filter, other: Filter) -> FilterComparison:
    """Apply both filters to `rows` and count what each keeps. Raises what `refilter` does."""
    first, second = _decide(rows, one), _decide(rows, other)
    left, right = (decided.reasons.is_null().to_numpy() for decided in (first, second))
    return FilterComparison(
        names=(one.name, other.name),
        rows=first.rows[REJECTED.name].null_count,
        both=int(np.count_nonzero(left & right)),
        only=(int(np.count_nonzero(left & ~right)), int(np.count_nonzero(right & ~left))),
        skipped=(first.skipped, second.skipped),
        what=rows.what,
        never_answered=rows.never_answered(first.rows),
    )


@dataclass(frozen=True, slots=True)
class _Decided:
    """The filter without its skipped rules, the columns that it read, and for each row why it is out, or null."""

    filter: Filter
    skipped: tuple[str, ...]
    rows: pa.Table
    reasons: pa.ChunkedArray


def _decide(rows: RowSource, other: Filter) -> _Decided:
    other, skipped = applicable(other, rows.schema)
    check(other, rows.schema, of=rows.what)
    reads = FilterStep(other, other.rules).reads
    # A step always gets `id`, so that `reads` leaves it out. Here it is read only where a rule needs it.
    needs_id = any("id" in columns_read(expression) for _, expression in expressions(other))
    read = rows.columns([*reads, *(["id"] if needs_id else [])])
    if other.quotas is not None and (strange := values_of_no_row(other, read)):
        raise FilterError(
            f"filter {other.name!r}: `quotas.counts` names {strange[0]!r}, "
            f"and no row has that as {other.quotas.by}; mend it, or take it out"
        )
    # Rows that are out already get a reason that is none of this filter's: its funnel does not count them.
    earlier = pc.if_else(
        pc.is_valid(read[REJECTED.name]), "out before this filter", pa.scalar(None, pa.string())
    )
    reasons = pc.coalesce(earlier, decide(other, other.rules, read).table(read)[REJECTED.name])
    return _Decided(other, skipped, read, reasons)


def _explain(rows: RowSource, decided: _Decided, lines: Sequence[FunnelLine]) -> tuple[Explained, ...]:
    reasons = decided.reasons.combine_chunks()
    examples = [
        pc.indices_nonzero(pc.fill_null(pc.equal(reasons, reason_of(line.name)), False))
        .slice(0, EXAMPLES)
        .to_pylist()
        for line in lines
    ]
    # All at once: each call may read the files anew.
    texts = rows.texts(sorted({position for positions in examples for position in positions}))
    alone = lost_alone(decided.filter, decided.rows)
    return tuple(
        Explained(line, number, tuple(texts[position] for position in positions))
        for line, number, positions in zip(lines, alone, examples, strict=True)
    )
