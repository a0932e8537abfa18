"""One file of a dataset: its values column by column, in the types that all files of the dataset have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from magpie.data.sources import Source
from magpie.records.opening import cannot_read
from magpie.records.tables import readable

_BATCH = 10_000  # rows that are held at once where columns are made from others, or rows pass through


@dataclass(frozen=True, slots=True)
class Part:
    """A file that was given, and the Parquet with its rows; `open` says that it may lack columns of others."""

    path: Path
    parquet: Path
    open: bool


def opened(part: Part) -> pq.ParquetFile:
    """The Parquet of a file. Raises RecipeError, which names the file."""
    with _reading(part):
        return _file(part)


def values_of(part: Part, source: Source, schema: pa.Schema) -> Iterator[Any]:
    """The values of a column in a file, in chunks."""
    # Where they are made from others, such as lengths from texts, no more than a batch of those is held.
    with _reading(part), _file(part) as file:
        columns = _Columns(part, file, schema)
        for first in range(0, file.metadata.num_rows, _BATCH):
            yield source.values(columns.reader(first, min(_BATCH, file.metadata.num_rows - first)))


def values_of_group(part: Part, source: Source, schema: pa.Schema, group: int) -> Any:
    """The values of a column in one row group of a file."""
    with _reading(part), _file(part) as file:
        first = sum(file.metadata.row_group(earlier).num_rows for earlier in range(group))
        columns = _Columns(part, file, schema, first, [group])
        return source.values(columns.reader(first, file.metadata.row_group(group).num_rows))


def batches_of(
    part: Part, file: pq.ParquetFile, groups: list[int] | None, first: int, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of row groups, or of all, in batches; `first` rows come before them in the file."""
    with _reading(part):
        for batch in file.iter_batches(_BATCH, row_groups=groups, columns=columns):
            yield readable(part.path, batch, first)
            first += batch.num_rows


class _Columns:
    """The columns of a file that are being read: one is begun when it is first asked for."""

    def __init__(
        self,
        part: Part,
        file: pq.ParquetFile,
        schema: pa.Schema,
        first: int = 0,
        groups: list[int] | None = None,
    ) -> None:
        self._part, self._file, self._schema = part, file, schema
        self._first, self._groups = first, groups
        self._begun: dict[str, _Column] = {}

    def reader(self, first: int, rows: int) -> Callable[[str], Any]:
        """What gives `rows` values of a column from row `first` on."""

        def values(name: str) -> Any:
            kind = self._schema.field(name).type
            if name not in self._file.schema_arrow.names:
                return pa.nulls(rows, kind)
            if name not in self._begun:
                batches = batches_of(self._part, self._file, self._groups, self._first, [name])
                self._begun[name] = _Column(batches, self._first, kind)
            return self._begun[name].values(first, rows)

        return values


class _Column:
    """One column of a file, read as far as it is asked for."""

    def __init__(self, batches: Iterator[pa.RecordBatch], first: int, kind: pa.DataType) -> None:
        self._batches = batches
        self._kind = kind
        self._at = first  # the row at which `_ahead` begins
        self._ahead = pa.array([], kind)
        self._last: tuple[int, Any] | None = None

    def values(self, first: int, rows: int) -> Any:
        """`rows` values from row `first` on: those that were asked for last, or later ones."""
        if self._last is not None and self._last[0] == first:
            return self._last[1]
        while self._at + len(self._ahead) < first + rows:
            values = next(self._batches).column(0).cast(self._kind)
            end = self._at + len(self._ahead)
            if end <= first:  # all that is held is passed over
                self._at, self._ahead = end, values
            else:
                self._ahead = pa.concat_arrays([self._ahead, values])
        start = first - self._at
        wanted = self._ahead.slice(start, rows)
        self._at, self._ahead = first + rows, self._ahead.slice(start + rows)
        self._last = (first, wanted)
        return wanted


def _file(part: Part) -> pq.ParquetFile:
    return pq.ParquetFile(pa.OSFile(os.fsencode(part.parquet)))  # a path need not be text


@contextmanager
def _reading(part: Part) -> Iterator[None]:
    """Turns errors of Arrow and the system into one that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        what = " ".join(str(error).split())
        wrong = f"--input {part.path} cannot be read as Parquet ({what}); fetch it anew"
        raise cannot_read(part.path, error, wrong) from error
