"""A dataset as Parquet files, with no run around it: the columns that a filter reads, and the rows that it keeps.

Columns have the names of the published Magpie datasets, in lower case. Where those sets differ, such as `uuid` and
`conversation_id`, a rule finds the column under one name. Columns that the files lack and that follow from others are
there too: see `sources`. Kept rows are returned as the files have them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from magpie.data.dataset import DatasetFiles
from magpie.data.sources import OTHER_NAMES, Source, source_of
from magpie.errors import RecipeError, RunError
from magpie.steps.base import REJECTED
from magpie.storage import open_storage

_BATCH = 10_000  # rows that are held at once where columns are made from others, or rows pass through


class Published:
    """The rows of one Parquet file, or of all below a folder in the order of their names.

    Raises RecipeError when there are none, they cannot be read, or not all have the same columns.
    """

    what = "the dataset"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.files = _files(self.path)
        footers = [_opened(path) for path in self.files]
        self._schema = footers[0].schema_arrow.remove_metadata()
        for file, footer in zip(self.files, footers, strict=True):
            if not footer.schema_arrow.equals(self._schema):
                raise RecipeError(
                    f"--input {self.path}: {file.name} has other columns than {self.files[0].name}; "
                    "give the files of one dataset"
                )
        self.rows = sum(footer.metadata.num_rows for footer in footers)

    @property
    def name(self) -> str:
        """What the dataset is called: its file or folder."""
        return self.path.resolve().stem

    @property
    def about(self) -> Mapping[str, Any]:
        """Where the rows come from, as the manifest of a dataset that magpie wrote says; else empty."""
        manifest = DatasetFiles(open_storage(self.path)).manifest() if self.path.is_dir() else None
        return {} if manifest is None else manifest.about

    @cached_property
    def schema(self) -> pa.Schema:
        """Every column that a rule may read, and its type: those of the files and those made from them."""
        names = {name.lower() for name in self._schema.names} | set(OTHER_NAMES)
        # A column `rejected` of the files is not read: to a filter it says which rows are out, and here all are in.
        sources = {name: self._source_of(name) for name in sorted(names - {"index", REJECTED.name})}
        fields = [pa.field("index", pa.int64())]
        for name, source in sources.items():
            if source is not None:
                kind = self._schema.field(source.column).type
                # Made from no values at all, to learn the type.
                made = kind if source.make is None else source.make(pa.array([], kind)).type
                fields.append(pa.field(name, made))
        return pa.schema(fields)

    def columns(self, names: Iterable[str]) -> pa.Table:
        """`index`, `rejected` (null) and the named columns of every row; `id` is its position unless named.

        No other column is read.
        """
        sources = {name: source for name in names if (source := self._source_of(name)) is not None}
        chunks_of = {
            name: [chunk for path in self.files for chunk in _read(path, source)]
            for name, source in sources.items()
        }
        position = pa.array(np.arange(self.rows))
        table = {"id": position, "index": position, REJECTED.name: pa.nulls(self.rows, pa.string())}
        table |= {
            name: pa.chunked_array(chunks, type=self.schema.field(name).type)
            for name, chunks in chunks_of.items()
        }
        return pa.table(table)

    def kept(self, rejected: pa.ChunkedArray) -> Iterator[pa.Table]:
        """The rows whose `rejected` is null, with all their columns; groups without such rows are not read."""
        yield self._schema.empty_table()  # so that a dataset without rows has its columns
        live = rejected.is_null().combine_chunks()
        for path, file, group, first in self._groups():
            rows = file.metadata.row_group(group).num_rows
            if not pc.any(live.slice(first, rows), min_count=0).as_py():
                continue
            # A group may be as large as the file: its batches take their parts of the mask one after another.
            mask = live.slice(first, rows)
            for batch in _batches(path, file, group):
                yield pa.Table.from_batches([batch]).filter(mask.slice(0, batch.num_rows))
                mask = mask.slice(batch.num_rows)

    def texts(self, at: Sequence[int]) -> dict[int, tuple[str, str]]:
        """The id and the instruction of the rows at positions `at`; their position where they have no id."""
        sources = (self._source_of("id"), self._source_of("instruction"))
        texts_at = {}
        for path, file, group, first in self._groups():
            # Only groups with such a row are read: a few examples of a large dataset are in a few of them.
            last = first + file.metadata.row_group(group).num_rows
            here = [position for position in at if first <= position < last]
            if not here:
                continue
            chosen = pa.array([position - first for position in here])
            ids, texts = (
                [None] * len(here)
                if source is None
                else _of_group(path, source, group).take(chosen).to_pylist()
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

    def _groups(self) -> Iterator[tuple[Path, pq.ParquetFile, int, int]]:
        """Each row group: its file, its number there, and the position of its first row."""
        first = 0
        for path in self.files:
            file = _opened(path)
            for group in range(file.metadata.num_row_groups):
                yield path, file, group, first
                first += file.metadata.row_group(group).num_rows


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.parquet") if not file.name.startswith("."))
    else:
        files = [path] if path.is_file() else []
    if not files:
        missing = "holds no Parquet file" if path.is_dir() else "is not there"
        raise RecipeError(f"--input {path} {missing}; give a Parquet file, or a folder of such files")
    return files


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns errors of Arrow and the system into one that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        what = " ".join(str(error).split())
        raise RecipeError(f"--input {path} cannot be read as Parquet ({what}); fetch it anew") from error


def _opened(path: Path) -> pq.ParquetFile:
    with _reading(path):
        return pq.ParquetFile(path)


def _read(path: Path, source: Source) -> Iterator[Any]:
    """The values of a column in a file, in chunks."""
    # Where they are made from others, such as lengths from texts, no more than a batch of those is held.
    with _reading(path), pq.ParquetFile(path) as file:
        if source.make is None:
            yield from file.read(columns=[source.column])[source.column].chunks
            return
        for batch in file.iter_batches(_BATCH, columns=[source.column]):
            yield source.make(batch.column(0))


def _of_group(path: Path, source: Source, group: int) -> Any:
    with _reading(path), pq.ParquetFile(path) as file:
        values = file.read_row_group(group, columns=[source.column])[source.column].combine_chunks()
    return values if source.make is None else source.make(values)


def _batches(path: Path, file: pq.ParquetFile, group: int) -> Iterator[pa.RecordBatch]:
    with _reading(path):
        yield from file.iter_batches(_BATCH, row_groups=[group])
