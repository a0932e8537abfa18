"""A dataset as Parquet files, with no run around it: what a filter reads of it, and its rows back, as they were.

Columns go by the names that the published Magpie datasets use, in lower case. Where those sets differ among themselves,
as in `input` and `output` in the first of them or `conversation_id` for `uuid`, a rule finds the column under one name.
What the files lack and the texts tell is there too: the first instruction and response of a conversation, and lengths
in characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from magpie.data.messages import ASSISTANT_ROLES, USER_ROLES
from magpie.errors import RecipeError, RunError
from magpie.steps.base import REJECTED

_OTHER_NAMES = {
    "id": ("uuid", "conversation_id"),
    "uuid": ("conversation_id",),
    "min_similar_uuid": ("min_similar_conversation_id",),
    "instruction": ("input",),
    "response": ("output",),
    "instruction_length": ("input_length",),
    "response_length": ("output_length",),
    "llama_guard": ("llama_guard_2",),
    "other_task_categories": ("other_task_category",),
}
_SPEAKERS = {"instruction": USER_ROLES, "response": ASSISTANT_ROLES}
_CONVERSATIONS = {"conversations": ("from", "value"), "messages": ("role", "content")}
_BATCH = 10_000

Make = Callable[[Any], Any]


class Published:
    """The rows of one Parquet file, or of all below a folder in the order of their names.

    Raises RecipeError when there are none, they cannot be read, or not all have the same columns.
    """

    what = "the dataset"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.files = _files(self.path)
        footers = [_opened(path) for path in self.files]
        self._given = footers[0].schema_arrow.remove_metadata()
        for file, footer in zip(self.files, footers, strict=True):
            if not footer.schema_arrow.equals(self._given):
                raise RecipeError(
                    f"--input {self.path}: {file.name} has other columns than {self.files[0].name}; "
                    "give the files of one dataset"
                )
        self.rows = sum(footer.metadata.num_rows for footer in footers)

    @property
    def name(self) -> str:
        """What the dataset is called: its file or folder."""
        return self.path.resolve().stem

    @cached_property
    def schema(self) -> pa.Schema:
        """Every column a rule may read, and its type: those of the files and those told from them."""
        names = {name.lower() for name in self._given.names} | set(_OTHER_NAMES)
        found = {name: self._source(name) for name in sorted(names - {"index", REJECTED.name})}
        fields = [pa.field("index", pa.int64())]
        for name, source in found.items():
            if source is not None:
                kind = self._given.field(source.column).type
                made = kind if source.make is None else source.make(pa.array([], kind)).type
                fields.append(pa.field(name, made))
        return pa.schema(fields)

    def columns(self, names: Iterable[str]) -> pa.Table:
        """`index`, `rejected` (null) and the named columns of every row; `id` is its position unless named.

        No other column is read, and a text from which only a length is taken is let go batch by batch.
        """
        sources = {name: self._source(name) for name in names}
        found = {name: source for name, source in sources.items() if source is not None}
        gathered = {
            name: [chunk for path in self.files for chunk in _read(path, found[name])] for name in found
        }
        position = pa.array(np.arange(self.rows))
        table = {"id": position, "index": position, REJECTED.name: pa.nulls(self.rows, pa.string())}
        table |= {
            name: pa.chunked_array(chunks, type=self.schema.field(name).type)
            for name, chunks in gathered.items()
        }
        return pa.table(table)

    def kept(self, rejected: pa.ChunkedArray) -> Iterator[pa.Table]:
        """The rows whose `rejected` is null, with all their columns; groups without such rows are not read."""
        yield self._given.empty_table()
        live = rejected.is_null().combine_chunks()
        for path, file, group, first in self._groups():
            rows = file.metadata.row_group(group).num_rows
            if not pc.any(live.slice(first, rows), min_count=0).as_py():
                continue
            mask = live.slice(first, rows)
            for batch in _batches(path, file, group):
                yield pa.Table.from_batches([batch]).filter(mask.slice(0, batch.num_rows))
                mask = mask.slice(batch.num_rows)

    def texts(self, at: Sequence[int]) -> dict[int, tuple[str, str]]:
        """The id and the instruction of the rows at positions `at`; their position where they have no id."""
        sources = (self._source("id"), self._source("instruction"))
        found = {}
        for path, file, group, first in self._groups():
            here = [one for one in at if first <= one < first + file.metadata.row_group(group).num_rows]
            if not here:
                continue
            chosen = pa.array([one - first for one in here])
            ids, texts = (
                [None] * len(here)
                if source is None
                else _of_group(path, source, group).take(chosen).to_pylist()
                for source in sources
            )
            for one, row_id, text in zip(here, ids, texts, strict=True):
                found[one] = (str(one) if row_id is None else str(row_id), "" if text is None else str(text))
        return found

    def never_answered(self, rows: pa.Table) -> int:
        """0: no build has filtered the rows before."""
        return 0

    def refuse(self, out: Path) -> None:
        """Raise RunError when `out` is where the dataset itself lies: it would take its place."""
        if out.resolve() in {path.resolve().parent for path in self.files} | {self.path.resolve()}:
            raise RunError(f"{out} holds the dataset itself; choose another folder with --out")

    def _groups(self) -> Iterator[tuple[Path, pq.ParquetFile, int, int]]:
        """Each row group: its file, its number there, and the position of its first row."""
        first = 0
        for path in self.files:
            file = _opened(path)
            for group in range(file.metadata.num_row_groups):
                yield path, file, group, first
                first += file.metadata.row_group(group).num_rows

    def _source(self, name: str) -> _Source | None:
        """Where the values of a column come from; None when there is no telling."""
        written = {column.lower(): column for column in self._given.names}
        for known in (name, *_OTHER_NAMES.get(name, ())):
            if known in written:
                return _Source(written[known])
        if name.endswith("_length"):
            text = self._source(name.removesuffix("_length"))
            if text is None or (text.make is None and not _is_text(self._given.field(text.column).type)):
                return None
            return _Source(text.column, _then_length(text.make))
        if name in _SPEAKERS:
            for column, (role, content) in _CONVERSATIONS.items():
                if column in written and _is_conversation(
                    self._given.field(written[column]).type, role, content
                ):
                    return _Source(written[column], _first_said_by(_SPEAKERS[name], role, content))
        return None


@dataclass(frozen=True, slots=True)
class _Source:
    """A column of the files, and what is made of its values; nothing when they are taken as they are."""

    column: str
    make: Make | None = None


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
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        what = " ".join(str(error).split())
        raise RecipeError(f"--input {path} cannot be read as Parquet ({what}); fetch it anew") from error


def _opened(path: Path) -> pq.ParquetFile:
    with _reading(path):
        return pq.ParquetFile(path)


def _read(path: Path, source: _Source) -> Iterator[Any]:
    """The values of a column in a file, in chunks; of what is only a step to them no more than a batch is held."""
    with _reading(path), pq.ParquetFile(path) as file:
        if source.make is None:
            yield from file.read(columns=[source.column])[source.column].chunks
            return
        for batch in file.iter_batches(_BATCH, columns=[source.column]):
            yield source.make(batch.column(0))


def _of_group(path: Path, source: _Source, group: int) -> Any:
    with _reading(path), pq.ParquetFile(path) as file:
        values = file.read_row_group(group, columns=[source.column])[source.column].combine_chunks()
    return values if source.make is None else source.make(values)


def _batches(path: Path, file: pq.ParquetFile, group: int) -> Iterator[pa.RecordBatch]:
    with _reading(path):
        yield from file.iter_batches(_BATCH, row_groups=[group])


def _then_length(make: Make | None) -> Make:
    def length(values: Any) -> Any:
        return pc.utf8_length((values if make is None else make(values)).cast(pa.large_string())).cast(
            pa.int64()
        )

    return length


def _is_text(kind: pa.DataType) -> bool:
    """Whether values are texts, or null each of them."""
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(is_one(kind) for is_one in texts)


def _is_conversation(kind: pa.DataType, role: str, content: str) -> bool:
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return (
        listed
        and pa.types.is_struct(kind.value_type)
        and all(
            kind.value_type.get_field_index(name) >= 0 and _is_text(kind.value_type.field(name).type)
            for name in (role, content)
        )
    )


def _first_said_by(speakers: frozenset[str], role: str, content: str) -> Make:
    def first(conversations: Any) -> Any:
        said = (
            next((turn[content] for turn in turns or () if turn and turn[role] in speakers), None)
            for turns in conversations.to_pylist()
        )
        return pa.array(list(said), pa.string())

    return first
