"""A file of records as Parquet, so that whoever filters it reads one format; no more than a batch is held."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from shutil import copyfileobj
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from magpie.errors import RecipeError
from magpie.records.arrow_types import held_type
from magpie.records.conversation import CONTENTS, CONVERSATIONS, text_of
from magpie.records.opening import DAMAGE, Kind, cannot_read, one_line, opened
from magpie.records.rows import Note, Record, no_note, read_rows
from magpie.records.schemas import merge
from magpie.records.tables import batches, readable

_BATCH = 5_000
_MESSAGES = (*CONVERSATIONS, "prompt", "completion", "chosen", "rejected")
_SAID = frozenset(
    {"instruction", "input", "output", "response", "prompt", "completion", "chosen", "rejected", "system"}
)
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?|-?\.\d+")
_TRUTHS = {"true": True, "false": False}
_TESTS: dict[str, Callable[[str], Any]] = {
    "whole": _WHOLE_NUMBER.fullmatch,
    "number": _NUMBER.fullmatch,
    "truth": lambda text: text.lower() in _TRUTHS,
}
_UNREADABLE = (
    pa.ArrowInvalid,
    pa.ArrowTypeError,
    pa.ArrowNotImplementedError,
    OverflowError,
    TypeError,
    ValueError,
)


def as_parquet(path: Path, to: Path, note: Note = no_note) -> tuple[Path, bool]:
    """A Parquet file with the rows of `path`: itself, or `to`; and whether a column may be missing in a row.

    Raises RecipeError where it cannot be read.
    """
    try:
        with opened(path) as (kind, start, content):
            if kind == "parquet":
                if start == path_start(path):
                    return path, False
                with to.open("wb") as file:
                    copyfileobj(content, file)
                return to, False
            if kind == "arrow":
                _write_batches(path, to, batches(kind, start, content))
                return to, False
    except DAMAGE as error:
        raise cannot_read(path, error, f"{path} cannot be read ({one_line(error)}); fetch it anew") from error
    _write_rows(path, to, kind, note)
    return to, kind == "json"


def path_start(path: Path) -> bytes:
    """The first bytes of a file as it lies there."""
    with path.open("rb") as file:
        return file.read(64)


def _write_batches(path: Path, to: Path, parts: Iterator[pa.RecordBatch]) -> None:
    first = next(parts, None)
    if first is None:
        pq.write_table(pa.table({}), to)
        return
    fields = [field.with_type(held_type(field.name, field.type)) for field in first.schema]
    schema = pa.schema(fields, metadata=first.schema.metadata)
    try:
        with pq.ParquetWriter(to, schema) as writer:
            rows = 0
            for part in chain([first], parts):
                writer.write_batch(
                    pa.RecordBatch.from_arrays(readable(path, part, rows).columns, schema=schema)
                )
                rows += part.num_rows
    except pa.ArrowNotImplementedError as error:  # such as unions
        raise RecipeError(
            f"{path} has a column of a type that Parquet cannot hold ({one_line(error)}); leave it out, or give Parquet"
        ) from error


def _write_rows(path: Path, to: Path, kind: Kind, note: Note) -> None:
    """Read the file twice: for the types of its columns, and for its rows."""
    columns: dict[str, _Column] = {}
    for records in _in_batches(read_rows(path, note=note)):
        rows = [_row(path, record) for record in records]
        for name in dict.fromkeys(name for row in rows for name in row):
            column = columns.setdefault(name, _Texts(name) if kind == "csv" else _Column(name))
            column.learn([row.get(name) for row in rows], [record.place for record in records])
    for column in columns.values():
        column.say(path, note)
    schema = pa.schema([pa.field(name, column.kind) for name, column in columns.items()])
    with pq.ParquetWriter(to, schema) as writer:
        for records in _in_batches(read_rows(path)):
            rows = [_row(path, record) for record in records]
            arrays = [column.array([row.get(name) for row in rows]) for name, column in columns.items()]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _in_batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    while batch := list(islice(records, _BATCH)):
        yield batch


def _row(path: Path, record: Record) -> Mapping[str, Any]:
    value = record.value
    if isinstance(value, dict):
        return value
    if isinstance(value, list):
        return {"messages": value}
    if isinstance(value, str):
        return {"text": value}
    raise RecipeError(
        f"line {record.place} of {path} is no row: it is {json.dumps(value)[:40]}; give objects"
    )


class _Column:
    """The type of a column of JSON, learnt batch by batch.

    Where its values have no type in common it is kept as text: texts as they are, all else as JSON.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.type: pa.DataType = pa.null()
        self.as_text = False
        self.flat = False
        self._seen: dict[str, int] = {}

    @property
    def kind(self) -> pa.DataType:
        return pa.string() if self.as_text or _has_empty_struct(self.type) else self.type

    def learn(self, values: list[Any], places: list[int]) -> None:
        """Take the types of some rows into account."""
        for value, place in zip(values, places, strict=True):
            if value is not None:
                self._seen.setdefault(_what(value), place)
        if self.as_text:
            return
        kind = _inferred(values)
        merged = None if kind is None else merge(self.type, kind)
        if merged is None and self.name.lower() in _MESSAGES:
            self.flat = True
            kind = _inferred([_flat(value) for value in values])
            merged = None if kind is None else merge(_flat_type(self.type), kind)
        if merged is None:
            self.as_text = True
        else:
            self.type = merged

    def array(self, values: list[Any]) -> pa.Array:
        """The values of some rows, in the type that holds all."""
        if pa.types.is_string(self.kind) and (self.as_text or not pa.types.is_string(self.type)):
            values = [
                value if value is None or isinstance(value, str) else json.dumps(value) for value in values
            ]
        elif self.flat:
            values = [_flat(value) for value in values]
        return pa.array(values, self.kind)

    def say(self, path: Path, note: Note) -> None:
        """Say that the column is kept as text, and why."""
        if not self.as_text:
            return
        kinds = " and ".join(f"{what} (line {place})" for what, place in self._seen.items())
        of_one = "which" if len(self._seen) > 1 else "whose values"
        note(
            f"{path}: column {self.name!r} holds {kinds}, {of_one} have no type in common; it is kept as text"
        )


class _Texts(_Column):
    """A column of CSV: numbers where every field is one, else texts."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        # What is said stays as it is written, be all of it numbers: 1.0 is no other answer than 1.00.
        said = name.strip().lower() in _SAID
        self._may_be = set() if said else {"whole", "number", "truth"}
        self._some = False

    @property
    def kind(self) -> pa.DataType:
        types = {"whole": pa.int64(), "number": pa.float64(), "truth": pa.bool_()}
        return next((types[name] for name in types if self._some and name in self._may_be), pa.string())

    def learn(self, values: list[Any], places: list[int]) -> None:
        texts = [value for value in values if value is not None]
        self._some = self._some or bool(texts)
        self._may_be = {name for name in self._may_be if all(_TESTS[name](text) for text in texts)}

    def array(self, values: list[Any]) -> pa.Array:
        if pa.types.is_string(self.kind):
            return pa.array(values, pa.string())
        read: Any = {pa.int64(): int, pa.float64(): float}.get(self.kind, lambda text: _TRUTHS[text.lower()])
        return pa.array([None if value is None else read(value) for value in values], self.kind)


def _inferred(values: list[Any]) -> pa.DataType | None:
    try:
        return pa.array(values).type
    except _UNREADABLE:
        return None


def _has_empty_struct(kind: pa.DataType) -> bool:
    """Whether a type holds an object without fields at any depth, which Parquet has no column for."""
    if pa.types.is_struct(kind):
        return kind.num_fields == 0 or any(_has_empty_struct(field.type) for field in kind)
    if pa.types.is_list(kind):
        return _has_empty_struct(kind.value_type)
    return False


def _flat(value: Any) -> Any:
    """The messages with texts in the place of parts that are all texts."""
    if not isinstance(value, list):
        return value
    return [_flat_message(message) if isinstance(message, dict) else message for message in value]


def _flat_message(message: dict[str, Any]) -> dict[str, Any]:
    flat = dict(message)
    for name, content in message.items():
        if name.lower() in CONTENTS and isinstance(content, list) and all(map(_is_text_part, content)):
            flat[name] = text_of(content)
    return flat


def _is_text_part(part: Any) -> bool:
    return isinstance(part, str) or (
        isinstance(part, dict) and set(part) <= {"type", "text"} and isinstance(part.get("text"), str)
    )


def _flat_type(kind: pa.DataType) -> pa.DataType:
    """The type of messages that `_flat` leaves, for those of the batches before."""
    if not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type):
        return kind
    fields = [
        pa.field(
            field.name,
            pa.string() if field.name.lower() in CONTENTS and pa.types.is_list(field.type) else field.type,
        )
        for field in kind.value_type
    ]
    return pa.list_(pa.struct(fields))


def _what(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        return "whole numbers" if -(2**63) <= value < 2**63 else "numbers over 64 bits"
    names = {float: "numbers", str: "texts", list: "lists", dict: "objects"}
    return names.get(type(value), type(value).__name__)
