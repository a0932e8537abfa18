"""A dataset in files of any shape, with no run around it: the columns that a filter reads, and the rows that it keeps.

Columns have the names of the published Magpie datasets, in lower case. Where those sets differ, such as `uuid` and
`conversation_id`, a rule finds the column under one name. Columns that the files lack and that follow from others are
there too: see `sources`. Kept rows are returned as the files have them. Files that are not Parquet are written as
Parquet to a temporary folder first, so that all are read in one way.
"""

from __future__ import annotations

import shutil
import weakref
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from magpie.data.dataset import DatasetFiles
from magpie.data.instructions import warn
from magpie.data.parts import Part, batches_of, opened, values_of, values_of_group
from magpie.data.sources import GREETED, OTHER_NAMES, UNREAD, Source, Tally, source_of
from magpie.errors import RecipeError, RunError
from magpie.records.as_parquet import as_parquet
from magpie.records.folders import find_files
from magpie.records.rows import Note
from magpie.records.schemas import NamedSchema, one_schema
from magpie.steps.base import REJECTED
from magpie.storage import open_storage
from magpie.storage.temporary import temporary_folder


class Published:
    """The rows of one file, or of all of one split below a folder in the order of their names.

    `note` takes a line for what is not read, or read in another way than it stands there. Raises RecipeError when there
    are no rows, they cannot be read, or the columns of the files do not go together.
    """

    what = "the dataset"

    def __init__(self, path: str | Path, split: str | None = None, note: Note = warn) -> None:
        self.path = Path(path)
        self._note = note
        found = find_files(self.path, split)
        for line in found.notes:
            note(line)
        self.files = found.paths
        self._folder = temporary_folder()
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        held: list[str] = []  # until it is sure that no error says the same again, or more
        self._parts = [self._part(file, number, held.append) for number, file in enumerate(self.files)]
        # Each is closed before the next is opened: a folder may hold more files than a process may open.
        footers = [_footer(part) for part in self._parts]
        schemas = [
            NamedSchema(part.path.name, schema, part.open)
            for part, (schema, _) in zip(self._parts, footers, strict=True)
        ]
        self._schema = one_schema(schemas)
        self._counts = [rows for _, rows in footers]
        self._firsts = [0, *accumulate(self._counts)][:-1]
        self.rows = sum(self._counts)
        if not self._schema.names:
            raise RecipeError(
                f"{self.path} is empty: it has no rows and no columns; give a dataset with rows"
            )
        for line in held:
            note(line)

    def _part(self, path: Path, number: int, note: Note) -> Part:
        parquet, is_open = as_parquet(path, self._folder / f"{number:05d}.parquet", note)
        return Part(path, parquet, is_open)

    @property
    def name(self) -> str:
        """What the dataset is called: its file or folder."""
        return self.path.resolve().stem

    @property
    def about(self) -> Mapping[str, Any]:
        """Where the rows come from, as the manifest of a dataset that magpie wrote says; else empty."""
        manifest = DatasetFiles(open_storage(self.path)).manifest() if self.path.is_dir() else None
        return {} if manifest is None else manifest.about

    @property
    def file_schema(self) -> pa.Schema:
        """The columns of the files, as they are written there."""
        return self._schema

    def rows_of_files(self) -> list[tuple[Path, int]]:
        """The files in the order in which they are read, and how many rows each has."""
        return list(zip((part.path for part in self._parts), self._counts, strict=True))

    def place_of(self, position: int) -> str:
        """Where the row at a position stands: its file, and its number there, from 1."""
        if not 0 <= position < self.rows:
            raise IndexError(position)
        number = bisect_right(self._firsts, position) - 1
        return f"{self._parts[number].path.name} row {position - self._firsts[number] + 1:,}"

    @cached_property
    def schema(self) -> pa.Schema:
        """Every column that a rule may read, and its type: those of the files and those made from them."""
        names = {name.lower() for name in self._schema.names} | set(OTHER_NAMES)
        # A column `rejected` of the files is not read: to a filter it says which rows are out, and here all are in.
        sources = {name: self._source_of(name) for name in sorted(names - {"index", REJECTED.name})}
        fields = [pa.field("index", pa.int64())]
        for name, source in sources.items():
            if source is not None:
                fields.append(pa.field(name, source.kind(self._schema)))
        return pa.schema(fields)

    def columns(self, names: Iterable[str]) -> pa.Table:
        """`index`, `rejected` (null) and the named columns of every row; `id` is its position unless named.

        No other column is read.
        """
        tally: Tally = Counter()
        sources = {
            name: source for name in names if (source := source_of(name, self._schema, tally)) is not None
        }
        chunks_of = {
            name: [chunk for part in self._parts for chunk in values_of(part, source, self._schema)]
            for name, source in sources.items()
        }
        for what in (GREETED, UNREAD):
            times = max((count for (counted, _), count in tally.items() if counted == what), default=0)
            if times:
                self._note(f"{self.path}: {times:,} of {self.rows:,} rows {what}")
        position = pa.array(np.arange(self.rows))
        table = {"id": position, "index": position, REJECTED.name: pa.nulls(self.rows, pa.string())}
        table |= {
            name: pa.chunked_array(chunks, type=self.schema.field(name).type)
            for name, chunks in chunks_of.items()
        }
        return pa.table(table)

    def kept(self, rejected: pa.ChunkedArray) -> Iterator[pa.Table]:
        """The rows whose `rejected` is null, with all their columns; groups without such rows are not read."""
        yield self._schema.empty_table().replace_schema_metadata(
            self._schema.metadata
        )  # so that a dataset without rows has its columns
        live = rejected.is_null().combine_chunks()
        for number, file, group, first in self._groups():
            part = self._parts[number]
            rows = file.metadata.row_group(group).num_rows
            if not pc.any(live.slice(first, rows), min_count=0).as_py():
                continue
            # A group may be as large as the file: its batches take their parts of the mask one after another.
            mask = live.slice(first, rows)
            at = first - self._firsts[number]
            for batch in batches_of(part, file, [group], at):
                yield self._conformed(batch).filter(mask.slice(0, batch.num_rows))
                mask = mask.slice(batch.num_rows)
                at += batch.num_rows

    def texts(self, at: Sequence[int]) -> dict[int, tuple[str, str]]:
        """The id and the instruction of the rows at positions `at`; their position where they have no id."""
        sources = (self._source_of("id"), self._source_of("instruction"))
        texts_at = {}
        for number, file, group, first in self._groups():
            part = self._parts[number]
            # Only groups with such a row are read: a few examples of a large dataset are in a few of them.
            last = first + file.metadata.row_group(group).num_rows
            here = [position for position in at if first <= position < last]
            if not here:
                continue
            chosen = pa.array([position - first for position in here])
            ids, texts = (
                [None] * len(here)
                if source is None
                else values_of_group(part, source, self._schema, group).take(chosen).to_pylist()
                for source in sources
            )
            for position, row_id, text in zip(here, ids, texts, strict=True):
                texts_at[position] = (
                    str(position) if row_id is None else str(row_id),
                    "" if text is None else str(text),
                )
        return texts_at

    def never_answered(self, rows: pa.Table) -> int:
        """0: no build has filtered the rows before."""
        return 0

    def refuse(self, out: Path) -> None:
        """Raise RunError when `out` is the folder of the dataset itself: the result would replace it."""
        if out.resolve() in {path.resolve().parent for path in self.files} | {self.path.resolve()}:
            raise RunError(f"{out} holds the dataset itself; choose another folder with --out")

    def _source_of(self, name: str) -> Source | None:
        return source_of(name, self._schema)

    def _conformed(self, batch: pa.RecordBatch) -> pa.Table:
        """The rows in the columns and the types that all files have in common."""
        there = set(batch.schema.names)
        columns = [
            batch[field.name].cast(field.type)
            if field.name in there
            else pa.nulls(batch.num_rows, field.type)
            for field in self._schema
        ]
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _groups(self) -> Iterator[tuple[int, pq.ParquetFile, int, int]]:
        """Each row group: the number of its file, that file, its number there, and the position of its first row."""
        first = 0
        for number, part in enumerate(self._parts):
            file = opened(part)
            for group in range(file.metadata.num_row_groups):
                yield number, file, group, first
                first += file.metadata.row_group(group).num_rows


def _footer(part: Part) -> tuple[pa.Schema, int]:
    """The columns of a file, and how many rows it has."""
    file = opened(part)
    return file.schema_arrow, file.metadata.num_rows
