"""Another filter over rows that are there: what would it have kept, what did each rule lose, how do two compare?

The rows are a finished run's, or a dataset's that has no run. Only the columns that the filter reads are held; the rest
of a kept row passes through when it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.published import Published
from magpie.errors import RunError
from magpie.figures.agreement import Agreement, agreement
from magpie.recipe import Filter
from magpie.runs.dataset import kept_rows, write_files
from magpie.runs.run import Run, merge_reasons
from magpie.runs.shards import digest
from magpie.steps.base import REJECTED
from magpie.steps.filter import FilterStep, FunnelLine, applicable, check, expressions, funnel, lost_alone
from magpie.steps.filter.sql import columns_read

EXAMPLES = 3


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
        """The part of the rows the rule alone would lose that it lost here: the rules before it had the others."""
        return self.line.lost / self.alone if self.alone else None


@dataclass(frozen=True, slots=True)
class Refiltered:
    """What another filter made of a run or a dataset: rows kept, the funnel, and the names of the rules left out.

    `explained` is the same funnel with more to say, where that was asked for. `never_answered` rows were dropped by the
    build's own filter before they were answered, and so are out here too. `agreement` is that of the run's judges.
    """

    kept: int
    never_answered: int
    lines: tuple[FunnelLine, ...]
    skipped: tuple[str, ...]
    what: str = "the run"
    explained: tuple[Explained, ...] = ()
    agreement: tuple[Agreement, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two filters over the same `rows`: how many both keep, one alone, and neither.

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


def refilter(
    source: Run | Published, other: Filter, out: Path | None, *, explain: bool = False
) -> Refiltered:
    """Apply `other` to the rows of `source`, and write what it keeps to `out`: a new folder, or an earlier result's.

    With no `out`, nothing is written. Raises FilterError, DamagedShardError, RecipeError, and RunError when `out` holds
    other things.
    """
    rows = _RunRows(source) if isinstance(source, Run) else source
    if out is not None:
        rows.refuse(out)
    decided = _decide(rows, other)
    lines = funnel(decided.filter, decided.verdict, rows.schema.names)
    kept = decided.verdict[REJECTED.name].null_count
    explained = _explain(rows, decided, lines) if explain else ()
    if out is not None:
        made_from = digest({"run": rows.name, "filter": decided.filter.model_dump(mode="json")})
        tables = rows.kept(decided.verdict[REJECTED.name])
        write_files(out, tables, kept, run_name=rows.name, made_from=made_from)
    never = rows.never_answered(decided.rows)
    agreed = agreement(source) if isinstance(source, Run) else ()
    return Refiltered(kept, never, lines, decided.skipped, rows.what, explained, agreed)


def compare(source: Run | Published, one: Filter, other: Filter) -> Comparison:
    """Apply both filters to the rows of `source` and count whom each keeps. Raises what `refilter` does."""
    rows = _RunRows(source) if isinstance(source, Run) else source
    first, second = _decide(rows, one), _decide(rows, other)
    left, right = (decided.verdict[REJECTED.name].is_null().to_numpy() for decided in (first, second))
    return Comparison(
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
    """The filter without what was left out of it, the columns it read, and `rejected` of every row."""

    filter: Filter
    skipped: tuple[str, ...]
    rows: pa.Table
    verdict: pa.Table


def _decide(rows: _RunRows | Published, other: Filter) -> _Decided:
    other, skipped = applicable(other, rows.schema)
    check(other, rows.schema, of=rows.what)
    step = FilterStep(other, other.rules)
    needs_id = any("id" in columns_read(expression) for _, expression in expressions(other))
    read = rows.columns([*step.reads, *(["id"] if needs_id else [])])
    earlier = pc.if_else(
        pc.is_valid(read[REJECTED.name]), "out before this filter", pa.scalar(None, pa.string())
    )
    reasons = merge_reasons([earlier, step.run_all(read)[REJECTED.name]], read.num_rows)
    return _Decided(other, skipped, read, pa.table({REJECTED.name: reasons}))


def _explain(
    rows: _RunRows | Published, decided: _Decided, lines: Sequence[FunnelLine]
) -> tuple[Explained, ...]:
    reasons = decided.verdict[REJECTED.name].combine_chunks()
    places = [
        pc.indices_nonzero(pc.fill_null(pc.equal(reasons, f"filter: {line.name}"), False))
        .slice(0, EXAMPLES)
        .to_pylist()
        for line in lines
    ]
    texts = rows.texts(sorted({at for here in places for at in here}))
    alone = lost_alone(decided.filter, decided.rows)
    return tuple(
        Explained(line, number, tuple(texts[at] for at in here))
        for line, number, here in zip(lines, alone, places, strict=True)
    )


class _RunRows:
    """A run as a filter sees it: its rows as they stand before its own filter."""

    what = "the run"

    def __init__(self, run: Run) -> None:
        self._run = run
        self._own = next((planned for planned in run.plan.steps if planned.name == "filter"), None)
        self.name = run.recipe.name
        self.schema = run.plan.schema

    def columns(self, names: Sequence[str]) -> pa.Table:
        """`id`, `index`, `rejected` and the named columns of every row."""
        run = self._run
        return pa.concat_tables(run.rows(shard, names, before=self._own) for shard in range(run.plan.shards))

    def kept(self, rejected: Any) -> Iterator[pa.Table]:
        """The rows whose `rejected` is null, in dataset form."""
        return kept_rows(self._run, {REJECTED.name: rejected})

    def texts(self, at: Sequence[int]) -> dict[int, tuple[str, str]]:
        """The id and the instruction of the rows at positions `at`."""
        found: dict[int, tuple[str, str]] = {}
        for shard in sorted({one // self._run.recipe.shard_rows for one in at}):
            here = self._run.plan.shard_range(shard)
            rows = self._run.rows(shard, ["instruction"], check=False)
            for one in (one for one in at if one in here):
                text = rows["instruction"][one - here.start].as_py()
                found[one] = (rows["id"][one - here.start].as_py(), text or "")
        return found

    def refuse(self, out: Path) -> None:
        """Raise RunError when `out` is the run itself."""
        if out.resolve() in {self._run.folder.resolve(), self._run.dataset_folder.resolve()}:
            raise RunError(f"{out} is the run itself; choose another folder with --out")

    def never_answered(self, rows: pa.Table) -> int:
        """How many rows the build's own filter dropped before they were answered."""
        return int(pc.sum(pc.starts_with(rows[REJECTED.name], "filter: ")).as_py() or 0)
