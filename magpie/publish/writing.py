"""Rows into files: JSON lines, a JSON array, or Parquet, compressed where the name says so."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Collection, Iterator
from functools import partial
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from magpie.errors import MagpieError, RunError

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_KINDS = (".jsonl", ".json", ".parquet")
CSV = ".csv"

Tables = Callable[[], Iterator[pa.Table]]
"""Gives the rows, from the first on, each time it is called."""

Convert = Callable[[Any], Any]


def file_kind(out: Path, *, is_csv: bool = False) -> str:
    """ ".jsonl", ".json" or ".parquet", or ".csv" where `is_csv`, by the name of the file. Raises MagpieError."""
    compressed = out.suffix.lower() in _COMPRESSIONS
    kind = (Path(out.stem) if compressed else out).suffix.lower()
    if is_csv and kind != CSV:
        raise MagpieError(
            f"{out.name!r} is no name for the format csv; end --out in .csv, .csv.gz or .csv.zst"
        )
    if not is_csv and (kind not in _KINDS or (compressed and kind == ".parquet")):
        raise MagpieError(
            f"cannot tell from {out.name!r} what to write; end --out in .jsonl for JSON lines, .json for a JSON array "
            "(either may go on in .gz or .zst), or .parquet for Parquet"
        )
    return kind


def write_file(
    path: Path, out: Path, kind: str, tables: Iterator[pa.Table], *, features: bytes | None
) -> int:
    """Write the rows to `path` in the form that the name of `out` asks for; how many.

    `features` is what `datasets` noted of the columns. JSON has no place for such a note: there the names of classes
    take the place of their numbers.
    """
    if kind == ".parquet":
        return write_parquet(path, tables, features=features)
    with _opened(path, out) as file:
        if kind == CSV:
            return _write_csv(file, tables)
        return _write_json(file, tables, features, as_array=kind == ".json")


def _write_json(file: Any, tables: Iterator[pa.Table], features: bytes | None, *, as_array: bool) -> int:
    rows = 0
    for table in tables:
        if table.num_rows:
            lines = [_object(row) for row in _plain(table, features)]
            array = ("[\n" if rows == 0 else ",\n") + ",\n".join(lines)
            file.write((array if as_array else "\n".join(lines) + "\n").encode("utf-8"))
            rows += len(lines)
    if as_array:
        file.write(b"\n]\n" if rows else b"[]\n")
    return rows


def _write_csv(file: Any, tables: Iterator[pa.Table]) -> int:
    rows = 0
    for number, table in enumerate(tables):
        text = StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        if number == 0:
            writer.writerow(table.column_names)
        plain = _plain(table, None)
        writer.writerows([_cell(value) for value in row.values()] for row in plain)
        file.write(text.getvalue().encode("utf-8"))
        rows += len(plain)
    return rows


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def write_parquet(path: Path, tables: Iterator[pa.Table], *, features: bytes | None) -> int:
    """Write the rows as Parquet, with what `datasets` noted of their columns; how many."""
    begun = next(tables)
    schema = begun.schema.with_metadata(None if features is None else {b"huggingface": features})
    rows = 0
    with (
        _file(path) as file,
        pq.ParquetWriter(
            file, schema, compression="zstd", write_page_checksum=True, write_page_index=True
        ) as writer,
    ):
        for table in chain([begun], tables):
            if table.num_rows:  # a row group of no rows is one that some readers stumble over
                writer.write_table(table.replace_schema_metadata(schema.metadata))
            rows += table.num_rows
    return rows


def _file(path: Path) -> pa.OSFile:
    return pa.OSFile(os.fsencode(path), "wb")  # a path need not be text, and Arrow takes a `str` for that


def _opened(path: Path, out: Path) -> Any:
    file = _file(path)
    compression = _COMPRESSIONS.get(out.suffix.lower())
    return file if compression is None else pa.CompressedOutputStream(file, compression)


def first_ones(tables: Tables, first: Collection[int]) -> Iterator[pa.Table]:
    """The rows at the positions `first`, and then the others; at least one table."""
    if first:
        yield from _at(tables(), first)
    yield from _at(tables(), first, others=True)


def _at(
    tables: Iterator[pa.Table], positions: Collection[int], *, others: bool = False
) -> Iterator[pa.Table]:
    """The rows at these positions, or all `others`, in their order."""
    start = 0
    for table in tables if positions or others else ():
        here = [at - start for at in sorted(positions) if start <= at < start + table.num_rows]
        start += table.num_rows
        if others and not here:
            yield table
        else:
            chosen = np.isin(np.arange(table.num_rows), here, invert=others)
            yield table.filter(pa.array(chosen))


# One for all rows: `json.dumps` with options makes another each time.
_object = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _plain(table: pa.Table, features: bytes | None) -> list[dict[str, Any]]:
    """The rows as values that JSON has."""
    known = _features(features)
    rows: list[dict[str, Any]] = short_floats(table).to_pylist()
    for field in table.schema:
        convert = _converter(field.name, field.type, known.get(field.name))
        if convert is not None:
            for row in rows:
                row[field.name] = convert(row[field.name])
    return rows


def _features(features: bytes | None) -> dict[str, Any]:
    try:
        known = json.loads(features or b"{}").get("info", {}).get("features", {})
    except (ValueError, AttributeError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _converter(column: str, kind: pa.DataType, feature: Any, *, top: bool = True) -> Convert | None:
    """What makes JSON of a value of this type, null apart; None where it is as it should be."""
    convert: Convert | None = None
    if pa.types.is_struct(kind):
        convert = _struct_converter(column, kind, feature)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        convert = _list_converter(column, kind, feature, top=top)
    elif isinstance(feature, dict) and isinstance(feature.get("names"), list) and pa.types.is_integer(kind):
        names = feature["names"]
        convert = lambda value: names[value] if 0 <= value < len(names) else None  # noqa: E731 - -1 is no label
    elif pa.types.is_floating(kind) and not top:  # `short_floats` has been at those on top
        convert = _short_float(kind)
    elif pa.types.is_temporal(kind):
        convert = _time
    elif pa.types.is_decimal(kind):
        convert = float
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        convert = partial(_decoded, column=column)
    return None if convert is None else partial(_unless_null, convert)


def _unless_null(convert: Convert, value: Any) -> Any:
    return None if value is None else convert(value)


def _struct_converter(column: str, kind: pa.DataType, feature: Any) -> Convert | None:
    inner = feature if isinstance(feature, dict) else {}
    fields = [kind.field(at) for at in range(kind.num_fields)]
    converters = {
        item.name: _converter(column, item.type, inner.get(item.name), top=False) for item in fields
    }
    needed = {name: convert for name, convert in converters.items() if convert is not None}
    if not needed:
        return None
    return lambda value: value | {name: convert(value[name]) for name, convert in needed.items()}


def _list_converter(column: str, kind: pa.DataType, feature: Any, *, top: bool) -> Convert | None:
    if top and pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
        return None  # `short_floats` has been there
    item = feature.get("feature") if isinstance(feature, dict) else None
    each = _converter(column, kind.value_type, item, top=False)
    return None if each is None else lambda value: [each(entry) for entry in value]


def _time(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value.total_seconds()


def _decoded(value: bytes, column: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RunError(
            f"the column {column!r} holds bytes that are no text, which JSON cannot hold; end --out in .parquet, or "
            "name other columns with --columns"
        ) from error


def _short_float(kind: pa.DataType) -> Convert:
    narrow = (
        np.float64 if pa.types.is_float64(kind) else np.float16 if pa.types.is_float16(kind) else np.float32
    )

    def convert(value: float | None) -> float | None:
        return float(str(narrow(value))) if value is not None and math.isfinite(value) else None

    return convert


def short_floats(table: pa.Table) -> pa.Table:
    """Floats with as few digits as they need: 0.8, not 0.800000011920929, the same in 32 bits. NaN becomes null."""
    for at, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            table = table.set_column(at, field.name, pa.array(_short(table[at]), pa.float64()))
        elif pa.types.is_list(field.type) and pa.types.is_floating(field.type.value_type):
            # Lists, too: a reward is then written the same among those of the candidates and beside the chosen one.
            column = table[at].combine_chunks()
            values = iter(_short(column.flatten()))
            lists = [None if items is None else [next(values) for _ in items] for items in column.to_pylist()]
            table = table.set_column(at, field.name, pa.array(lists, pa.list_(pa.float64())))
    return table


def _short(floats: Any) -> list[float | None]:
    # Arrow writes the shortest text that reads back as the same float32.
    values = (None if text is None else float(text) for text in floats.cast(pa.string()).to_pylist())
    return [value if value is not None and math.isfinite(value) else None for value in values]
