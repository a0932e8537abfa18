"""Parquet and Arrow files: their rows, and where in them a text is not UTF-8."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from typing import IO, TYPE_CHECKING, Any

from magpie.errors import RecipeError

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 10_000  # rows that are held at once
_INDEX = "__index_level_"  # what pandas calls the index of a frame that it stores


def read_table(
    path: Path,
    kind: str,
    start: bytes,
    content: IO[bytes],
    columns: Callable[[list[str]], list[str]] | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, row) of each row of a Parquet or Arrow file. Raises RecipeError for a text that is not UTF-8."""
    first = 0
    for stored in batches(kind, start, content, columns):
        batch = readable(path, stored, first)
        yield from enumerate(batch.to_pylist(maps_as_pydicts="lossy"), start=first + 1)
        first += batch.num_rows


def batches(
    kind: str,
    start: bytes,
    content: IO[bytes],
    columns: Callable[[list[str]], list[str]] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, an Arrow file or an Arrow stream (as `datasets` writes it), in batches."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind == "parquet":
        with _seekable(content) as whole, pq.ParquetFile(whole) as file:
            names = file.schema_arrow.names
            chosen = None if columns is None else columns(names)
            yield from file.iter_batches(_BATCH, columns=chosen)
        return
    if start.startswith(b"ARROW1"):
        with _seekable(content) as whole, pa.ipc.open_file(whole) as file:
            parts = (file.get_batch(number) for number in range(file.num_record_batches))
            yield from _chosen(parts, columns)
        return
    with pa.ipc.open_stream(content) as stream:
        yield from _chosen(stream, columns)


def _chosen(parts: Any, columns: Callable[[list[str]], list[str]] | None) -> Iterator[pa.RecordBatch]:
    for part in parts:
        wanted = part if columns is None else part.select(columns(part.schema.names))
        for at in range(0, wanted.num_rows, _BATCH):
            yield wanted.slice(at, _BATCH)


@contextmanager
def _seekable(content: IO[bytes]) -> Iterator[Any]:
    """The content itself, or a copy on disk where it cannot be read from the end, as both formats are."""
    if hasattr(content, "fileno") and not _is_unpacked(content):
        yield content
        return
    with tempfile.TemporaryFile() as copy:
        copyfileobj(content, copy)
        copy.seek(0)
        yield copy


def _is_unpacked(content: Any) -> bool:
    from io import FileIO

    return not isinstance(getattr(content, "raw", None), FileIO)


def readable(path: Path, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    """The batch without views. `first` rows came before.

    Raises RecipeError for a text that is not UTF-8, with its file, column and row.
    """
    import pyarrow as pa

    from magpie.records.arrow_types import as_held

    columns = []
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        try:
            values.validate(full=True)
            columns.append(as_held(name, values))
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            row = next((at for at in range(len(values)) if not _is_valid(name, values.slice(at, 1))), None)
            where = f"row {first + 1 if row is None else first + row + 1}"
            is_text = isinstance(error, UnicodeDecodeError) or "utf" in str(error).lower()
            what = "not UTF-8 text" if is_text else f"damaged ({error})"
            raise RecipeError(
                f"{path}: column `{name}`, {where}: {what}; mend the file, or fetch it anew"
            ) from error
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def _is_valid(name: str, one: pa.Array) -> bool:
    import pyarrow as pa

    from magpie.records.arrow_types import as_held

    # A copy of the one row: a slice is validated with the values of its neighbours.
    try:
        as_held(name, one).take(pa.array([0])).validate(full=True)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return False
    return True


def is_index(name: str) -> bool:
    """Whether a column is the index of a pandas frame."""
    return name.startswith(_INDEX) and name.removeprefix(_INDEX).rstrip("_").isdigit()
