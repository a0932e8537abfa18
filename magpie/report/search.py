"""Rows of a run or a dataset that somebody looks for: by a text in them, by a rule, the worst by a column; in pages."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.conversations import as_messages, conversation_column
from magpie.errors import RunError
from magpie.recipe import Filter, Rule
from magpie.report.show import card, columns_shown, row_tables
from magpie.report.show_dataset import named, tables_at
from magpie.report.text import as_text
from magpie.runs.opened import OpenDataset
from magpie.runs.run import Run
from magpie.steps.base import REJECTED
from magpie.steps.base.scales import SCALES
from magpie.steps.filter import check
from magpie.steps.filter.sql import RowValues, columns_read
from magpie.text import counted

if TYPE_CHECKING:
    from rich.console import Console

Found = list[tuple[int, Any]]
"""Positions of rows, each with what it is ordered by; None where it has nothing there."""

_BAD_WHEN_HIGH = {"repeat_count"}


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for: rows with `grep` in a text (a regular expression, in any case), for which `where` holds.

    `worst` is a column whose lowest values come first, highest with a minus before it. `seed` puts the rows in a random
    order, else they come as they are. `rejected` looks among the rows that are out and not among those that are in.
    """

    grep: str | None = None
    where: str | None = None
    worst: str | None = None
    seed: int | None = None
    rejected: bool = False

    @property
    def column(self) -> str | None:
        """The column of `worst`, without its minus."""
        return None if self.worst is None else self.worst.removeprefix("-")

    @property
    def from_high(self) -> bool:
        """Whether high values come first."""
        return self.worst is not None and (self.worst.startswith("-") != (self.column in _BAD_WHEN_HIGH))


class Source(Protocol):
    """Rows to look through."""

    @property
    def schema(self) -> pa.Schema:
        """The columns that a rule may read."""

    def tables(self, columns: Sequence[str], *, texts: bool) -> Iterator[tuple[int, pa.Table]]:
        """The rows with these columns, some at a time, each time with the position of the first.

        With `rejected`, null in rows that are in, and with `texts` the columns that hold what is said.
        """

    def rows(self, positions: Sequence[int], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The rows at these rising positions, for their cards, with these columns too."""


def show_found(
    source: Source, search: Search, console: Console, *, n: int = 5, page: int = 1, of: str = "the run"
) -> None:
    """Print page `page` of the rows found, `n` on each. Raises FilterError and RunError for what cannot be asked."""
    found = _ordered(_find(source, search, of), search)
    start = (page - 1) * n
    here = found[start : start + n]
    column = search.column
    shown = [] if column is None else [column]
    cards = {row["__at"]: row for row in source.rows(sorted(here), shown)}
    for at in here:
        row = cards[at]
        more = [f"{column} {row.get(column)}"] if column is not None else []
        reason = row.get("__reason")
        console.print(card(row, [*([f"out: {reason}"] if reason else []), *more]))
    console.print(as_text(_told(len(found), start, len(here), page)), highlight=False, soft_wrap=True)


def _told(found: int, start: int, here: int, page: int) -> str:
    if not found:
        return "no row is found"
    if not here:
        return f"{counted(found, 'row')} found, and none on page {page}"
    more = f"; the next: --page {page + 1}" if start + here < found else ""
    return f"rows {start + 1:,} to {start + here:,} of {found:,} found{more}"


def _find(source: Source, search: Search, of: str) -> Found:
    """All rows that are looked for, in their order."""
    columns = _columns(source.schema, search, of)
    found: Found = []
    for first, table in source.tables(columns, texts=search.grep is not None):
        out = pc.is_valid(table[REJECTED.name]).to_numpy(zero_copy_only=False)
        live = out if search.rejected else ~out
        if search.where is not None and table.num_rows:
            live &= _holds(table, search.where)
        if search.grep is not None:
            live &= _has_text(table, search.grep)
        at = np.flatnonzero(live)
        column = search.column
        values = [None] * len(at) if column is None else table[column].take(pa.array(at)).to_pylist()
        found += zip((first + at).tolist(), values, strict=True)
    return found


def _ordered(found: Found, search: Search) -> list[int]:
    if search.column is not None:
        scale = SCALES.get(search.column)
        keys = {at: _key(value, scale) for at, value in found}
        known = [at for at, _ in found if keys[at] is not None]
        known.sort(key=lambda at: keys[at] or 0.0, reverse=search.from_high)
        return [*known, *(at for at, _ in found if keys[at] is None)]
    order = [at for at, _ in found]
    if search.seed is not None:
        random.Random(search.seed).shuffle(order)
    return order


def _key(value: Any, scale: Sequence[str] | None) -> float | None:
    """What a value is ordered by; None for none, for NaN, and for what is on no scale."""
    if scale is not None:
        return float(scale.index(value)) if value in scale else None
    return None if value is None or math.isnan(value) else float(value)


def _columns(schema: pa.Schema, search: Search, of: str) -> list[str]:
    """The columns that are read. Raises FilterError for the rule, RunError for the column of `worst`."""
    columns: set[str] = set()
    if search.where is not None:
        rule = Rule(name="--where", where=search.where)
        lower = pa.schema(
            [(field.name.lower(), field.type) for field in schema if field.name != REJECTED.name]
        )
        check(Filter(name="show", rules=(rule,)), lower, of=of)
        read = columns_read(search.where)
        columns |= {name for name in schema.names if name.lower() in read}
    column = search.column
    if column is not None:
        if column not in schema.names:
            raise RunError(f"{of} has no column {column!r} to order by; `magpie columns` lists those it has")
        kind = schema.field(column).type
        if column not in SCALES and not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise RunError(
                f"the column {column!r} holds no numbers and no scale, so that none is the worst; "
                "name one such as instruct_reward, input_quality or min_neighbor_distance"
            )
        columns.add(column)
    return sorted(columns)


def _holds(table: pa.Table, where: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    read = columns_read(where)
    columns = {name.lower(): table[name] for name in table.column_names if name.lower() in read}
    rows = pa.table(columns) if columns else pa.table({"index": pa.array(np.arange(table.num_rows))})
    values = pc.fill_null(RowValues(rows, read).values(where), False)
    holds: np.ndarray[Any, np.dtype[np.bool_]] = values.cast(pa.bool_()).to_numpy(zero_copy_only=False)
    return holds


def _has_text(table: pa.Table, grep: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    # By RE2, which takes time in proportion to the text whatever the expression is.
    texts = pa.array(["\n".join(_strings(row)) for row in table.to_pylist()], pa.string())
    try:
        has = pc.match_substring_regex(texts, grep, ignore_case=True)
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0].removeprefix("Invalid regular expression: ")
        raise RunError(
            f"--grep {grep!r} is no regular expression ({reason}); put a backslash before each sign meant as it is"
        ) from error
    found: np.ndarray[Any, np.dtype[np.bool_]] = has.to_numpy(zero_copy_only=False)
    return found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            if key not in {REJECTED.name, "role"} or isinstance(each, list):
                yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)


class RunSource:
    """The rows of a run, as far as they have come."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.schema = run.schema

    def tables(self, columns: Sequence[str], *, texts: bool) -> Iterator[tuple[int, pa.Table]]:
        """See Source: a shard at a time; those that are not begun are passed over."""
        wanted = [*columns, *(columns_shown() if texts else ())]
        for shard, rows in row_tables(self._run, wanted, check=False):
            made = dict(zip(rows.column_names, rows.columns, strict=True))
            not_made = {
                name: pa.nulls(rows.num_rows, self.schema.field(name).type)
                for name in columns
                if name not in made
            }
            yield self._run.shard_range(shard).start, pa.table(made | not_made)

    def rows(self, positions: Sequence[int], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """See Source."""
        shards = sorted({at // self._run.recipe.shard_rows for at in positions})
        wanted = [*columns_shown(tags=True), *columns]
        for shard, rows in row_tables(self._run, wanted, of=shards):
            here = self._run.shard_range(shard)
            at = [position for position in positions if position in here]
            for row in rows.take(pa.array([each - here.start for each in at], pa.int64())).to_pylist():
                yield {**row, "__at": row["index"], "__reason": row[REJECTED.name]}


class DatasetSource:
    """The rows of a dataset: all of them are in."""

    def __init__(self, dataset: OpenDataset) -> None:
        self._dataset = dataset
        derived = [field for field in dataset.derived if field.name not in dataset.schema.names]
        # There `rejected` is an answer, where a pair has one.
        self.schema = pa.schema(
            [*(field for field in dataset.schema if field.name != REJECTED.name), *derived]
        )

    def tables(self, columns: Sequence[str], *, texts: bool) -> Iterator[tuple[int, pa.Table]]:
        """See Source."""
        first = 0
        names = {field.name for field in self._dataset.derived}
        for table in self._dataset.tables([name for name in columns if name in names]):
            kept = table.drop_columns([REJECTED.name]) if REJECTED.name in table.column_names else table
            wanted = [name for name in kept.column_names if texts or name in columns]
            read = kept.select(wanted)
            yield first, read.append_column(REJECTED.name, pa.nulls(table.num_rows, pa.string()))
            first += table.num_rows

    def rows(self, positions: Sequence[int], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """See Source."""
        places = iter(positions)
        talk = conversation_column(self._dataset.schema)
        names = {field.name for field in self._dataset.derived}
        for table in tables_at(self._dataset, list(positions), [name for name in columns if name in names]):
            talks: Iterable[Any] = as_messages(table, talk).to_pylist()
            for row, messages in zip(named(self._dataset, table), talks, strict=True):
                yield {"id": "", **row, "messages": messages or [], "__at": next(places)}
