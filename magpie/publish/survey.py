"""A look at all rows before they are written: which columns are empty, and which rows show the type of each column.

Readers of JSON lines tell the types of columns from the first rows: `datasets` from the first 10 MB, Polars from 100
rows, DuckDB from 20,480. A column that is null as far as they look has no type, and a value that comes later fails.
To leave out nulls is no way out, since a column that was not seen is refused later as well. So the rows that show the
type of each column are written first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

# What Arrow's reader takes for a time if all texts of a column look like it.
_LIKE_A_TIME = r"^\d{4}-\d{2}-\d{2}"

Path = tuple[str | None, ...]
"""A value inside a column: names of fields, and None for the items of a list."""


@dataclass(slots=True)
class Survey:
    """What was seen in all rows.

    `empty` are columns without any value, `constant` those with one value in every row of two or more. `showing` are
    the positions of rows that show every type between them.
    """

    rows: int = 0
    empty: set[str] = field(default_factory=set)
    constant: set[str] = field(default_factory=set)
    showing: list[int] = field(default_factory=list)


def survey(tables: Iterable[pa.Table], *, constants: bool = False) -> Survey:
    """Look at every row; at constant columns only where that is asked for."""
    result, waiting, second_best = Survey(), dict[tuple[str, Path], None](), dict[tuple[str, Path], int]()
    first: dict[str, Any] = {}
    showing: set[int] = set()
    for number, table in enumerate(tables):
        if number == 0:
            waiting = {(item.name, path): None for item in table.schema for path in _leaves(item.type)}
            result.empty = set(table.column_names)
            result.constant = set(table.column_names) if constants else set()
        for name, path in list(waiting):
            column = table[name].combine_chunks()
            sure, like_a_time = _first(column, path)
            if like_a_time is not None:
                second_best.setdefault((name, path), result.rows + like_a_time)
            if sure is not None:
                showing.add(result.rows + sure)
                del waiting[name, path]
            if sure is not None or like_a_time is not None:
                result.empty.discard(name)
        for name in list(result.constant) if table.num_rows else ():
            first.setdefault(name, table[name][0].as_py())
            if not _all_equal(table[name], first[name]):
                result.constant.discard(name)
        result.rows += table.num_rows
    showing |= {second_best[leaf] for leaf in waiting if leaf in second_best}
    result.showing = sorted(showing)
    if result.rows < 2:
        result.constant.clear()
    return result


def in_order(showing: Collection[int]) -> bool:
    """Whether these rows are the first ones as it is."""
    return not showing or max(showing) < len(showing)


def _leaves(kind: pa.DataType) -> list[Path]:
    """The values inside a column that have a type of their own."""
    if pa.types.is_null(kind):
        return []
    if pa.types.is_struct(kind):
        return [
            (kind.field(at).name, *path)
            for at in range(kind.num_fields)
            for path in _leaves(kind.field(at).type)
        ]
    if _is_list(kind):
        return [(None, *path) for path in _leaves(kind.value_type)]
    return [()]


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _first(values: Any, path: Path) -> tuple[int | None, int | None]:
    """The first position with a value there; and the first with a text that looks like a time."""
    if path:
        name, *rest = path
        if name is not None:
            return _first(pc.struct_field(values, name), tuple(rest))
        if pa.types.is_fixed_size_list(values.type):
            values = values.cast(pa.list_(values.type.value_type))
        parents = pc.list_parent_indices(values)
        sure, like = _first(pc.list_flatten(values), tuple(rest))
        return (
            None if sure is None else parents[sure].as_py(),
            None if like is None else parents[like].as_py(),
        )
    if values.null_count == len(values):
        return None, None
    if pa.types.is_floating(values.type):
        # NaN and infinity are written as null.
        return _position(pc.fill_null(pc.is_finite(values), False)), None
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        timely = pc.fill_null(pc.match_substring_regex(values, _LIKE_A_TIME), False)
        return _position(pc.and_(values.is_valid(), pc.invert(timely))), _position(timely)
    return _position(values.is_valid()), None


def _position(mask: Any) -> int | None:
    at = pc.index(mask, True).as_py()
    return None if at < 0 else int(at)


def _all_equal(column: Any, value: Any) -> bool:
    if pa.types.is_nested(column.type):
        return all(item == value for item in column.to_pylist())
    if value is None:
        return int(column.null_count) == len(column)
    different = pc.not_equal(column, pa.scalar(value, column.type))
    return column.null_count == 0 and not pc.any(different).as_py()
