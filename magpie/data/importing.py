"""Makes a dataset of magpie's own of one that was made elsewhere: a row has `messages`, and columns under known names.

The files are read twice, a few thousand rows at a time: first to see which rows are conversations and why the others
are none, then to write those that are. Between the two only a bit and a hash a row are held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.dataset import PAIR, DatasetFiles
from magpie.data.foreign import (
    Conversation,
    UnfitError,
    conversation_of,
    pair_of,
)
from magpie.data.foreign_columns import ForeignColumns
from magpie.data.hub import download, is_hub_name
from magpie.data.instructions import warn
from magpie.data.left_out import LeftOut, Reasons
from magpie.data.messages import MESSAGES
from magpie.data.published import Published
from magpie.errors import RecipeError
from magpie.neighbors.vectors import ProgressCallback, no_progress
from magpie.records.rows import Note
from magpie.storage import open_storage
from magpie.storage.sealed import digest
from magpie.text import counted


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of the rows: `rows_in` = `rows` + all `left_out`. `notes` say what was read in another way."""

    rows_in: int
    rows: int
    left_out: tuple[LeftOut, ...]
    columns: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def import_dataset(
    source: str | Path,
    out: Path,
    *,
    split: str | None = None,
    generator: str | None = None,
    license: str | None = None,
    on_progress: ProgressCallback = no_progress,
    note: Note = warn,
) -> Imported:
    """Read the dataset `source`, a file, a folder or ORG/NAME on the hub, and write it to the folder `out`.

    `generator` and `license` fill the columns of these names where a row has none. Raises RecipeError for what cannot
    be read or where not one row is a conversation, and RunError when `out` holds other things.
    """
    notes: list[str] = []

    def noted(line: str) -> None:
        notes.append(line)
        note(line)

    files = DatasetFiles(open_storage(out))
    with _found(source, split) as (path, name, chosen):
        rows = Published(path, chosen, noted)
        rows.refuse(out)
        files.refuse_other_things()  # before the work
        given = {"generator": generator, "license": license}
        work = _Import(rows, name, {key: text for key, text in given.items() if text is not None})
        fits = work.look(on_progress)
        kept = int(np.count_nonzero(fits))
        reasons = work.reasons.result()
        if not kept and rows.rows:
            why = "; ".join(f"{counted(one.rows, 'row')}: {one.reason}" for one in reasons)
            raise RecipeError(f"not one row of {source} is a conversation ({why}); nothing was written")
        if work.renamed_ids:
            noted(f"{source}: {counted(work.renamed_ids, 'row')} with the id of an earlier row, now numbered")
        if work.unkept:
            noted(
                f"{source}: left out {', '.join(work.unkept)}, since a column of that name means something else here"
            )
        about = work.about(kept)
        files.storage.prepare()
        files.storage.sweep()
        made_from = digest({"import": about["imported"], "name": name})
        files.write(work.tables(fits, on_progress), kept, name=name, made_from=made_from, about=about)
    return Imported(len(fits), kept, reasons, tuple(work.schema.names), tuple(notes))


@contextmanager
def _found(source: str | Path, split: str | None) -> Iterator[tuple[Path, str, str | None]]:
    """The path of the files, what the dataset is called, and the split to read there."""
    if not is_hub_name(str(source)):
        yield Path(source), Path(source).resolve().name.partition(".")[0], split
        return
    name, _, named = str(source).partition(":")
    with TemporaryDirectory(prefix="magpie-") as folder:
        # Its rows lie in Arrow files of the cache; as Parquet they are read like all others.
        yield download(name, split or named or "train", Path(folder)), name.rpartition("/")[2], None


class _Import:
    """The rows of a dataset on their way into the form of magpie's own."""

    def __init__(self, rows: Published, name: str, given: Mapping[str, str]) -> None:
        self._rows = rows
        self._name = name
        self._given = given
        self._columns = ForeignColumns(rows.file_schema, self._given)
        self._again: set[int] = set()
        self.reasons = Reasons()
        self.schema = self._columns.schema
        self.unkept = self._columns.unkept

    @property
    def renamed_ids(self) -> int:
        """How many rows had an id that an earlier row has."""
        return len(self._again)

    def about(self, kept: int) -> dict[str, Any]:
        """Where the rows come from, for the manifest."""
        files = [{"file": path.name, "rows": count} for path, count in self._rows.rows_of_files()]
        left_out = [one.to_json() for one in self.reasons.result()]
        imported = {"name": self._name, "files": files, "rows": kept, "left_out": left_out, **self._given}
        return {"imported": imported}

    def look(self, on_progress: ProgressCallback) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which rows are conversations. The reasons of the others are counted."""
        fits = np.zeros(self._rows.rows, np.bool_)
        hashes = np.zeros(self._rows.rows, np.uint64)
        for first, table in self._tables():
            for at, talk in enumerate(self._talks(table), start=first):
                if isinstance(talk, UnfitError):
                    self.reasons.add(str(talk), self._rows.place_of(at))
                else:
                    fits[at] = True
            ids = self._own_ids(table, first)
            hashes[first : first + len(ids)] = [hash(text) & (2**64 - 1) for text in ids]
            on_progress("reading", first + table.num_rows, self._rows.rows)
        self._again = _repeated(hashes, fits)
        return fits

    def tables(self, fits: Any, on_progress: ProgressCallback) -> Iterator[pa.Table]:
        """The rows that fit, in the form of a dataset; at least one table."""
        yield self.schema.empty_table()
        for first, table in self._tables():
            here = fits[first : first + table.num_rows]
            if here.any():
                yield self._made(table, first, here)
            on_progress("writing", first + table.num_rows, self._rows.rows)

    def _made(self, table: pa.Table, first: int, fits: Any) -> pa.Table:
        talks = [talk for talk in self._talks(table) if isinstance(talk, Conversation)]
        ids = [
            f"{text}-{at}" if at in self._again else text
            for at, text in enumerate(self._own_ids(table, first), start=first)
            if fits[at - first]
        ]
        columns: dict[str, Any] = {"id": pa.array(ids, pa.string())}
        columns["messages"] = pa.array([talk.messages for talk in talks], MESSAGES)
        if self._columns.pairs:
            for name in PAIR:
                columns[name] = pa.array([getattr(talk, name) for talk in talks], MESSAGES)
        columns |= plain_texts(columns["messages"])
        kept = table.filter(pa.array(fits))
        for name in self._columns.others:
            columns[name] = self._columns.kept(kept, name)
        configs = self._columns.configs_of(kept)
        columns |= {name: values for name, values in configs.items() if name not in columns}
        for name, text in self._given.items():
            held = columns.get(name, pa.nulls(len(ids), pa.string()))
            columns[name] = pc.fill_null(held.cast(pa.string()), text)
        return pa.table({name: columns[name] for name in self.schema.names}).cast(self.schema)

    def _tables(self) -> Iterator[tuple[int, pa.Table]]:
        """All rows, some at a time, and the position of the first."""
        first = 0
        for table in self._rows.kept(pa.chunked_array([pa.nulls(self._rows.rows, pa.string())])):
            if table.num_rows:
                yield first, table
            first += table.num_rows

    def _talks(self, table: pa.Table) -> Iterator[Conversation | UnfitError]:
        """The conversation of each row, or why it has none."""
        read = pair_of if self._columns.pairs else conversation_of
        columns = [
            table[self._columns.names[name]].to_pylist(maps_as_pydicts="lossy") for name in self._columns.said
        ]
        for values in zip(*columns, strict=True) if columns else [()] * table.num_rows:
            try:
                yield read(dict(zip(self._columns.said, values, strict=True)))
            except UnfitError as error:
                yield error

    def _own_ids(self, table: pa.Table, first: int) -> list[str]:
        """The id of each row: its own, or the name of the dataset and its position."""
        column = next(
            (
                self._columns.names[name]
                for name in ("id", "uuid", "conversation_id")
                if name in self._columns.names
            ),
            None,
        )
        held = [None] * table.num_rows if column is None else table[column].to_pylist()
        return [
            f"{self._name}-{at:07d}" if text is None or text == "" else str(text)
            for at, text in enumerate(held, start=first)
        ]


def plain_texts(messages: Any) -> dict[str, Any]:
    """The first instruction and response of conversations as columns, with their lengths in characters."""
    texts: dict[str, Any] = {}
    for name, role in (("instruction", "user"), ("response", "assistant")):
        texts[name] = pa.array([first_text(turns, role) for turns in messages.to_pylist()], pa.string())
    lengths = {f"{name}_length": pc.utf8_length(values).cast(pa.int32()) for name, values in texts.items()}
    return {**texts, **lengths}


def first_text(turns: Iterable[Mapping[str, str]] | None, role: str) -> str | None:
    """What one of the two speakers says first; None where he says nothing."""
    return next((turn["content"] for turn in turns or () if turn["role"] == role), None)


def _repeated(hashes: Any, fits: Any) -> set[int]:
    """The positions of rows whose hash an earlier row has, among those that fit."""
    at = np.flatnonzero(fits)
    _, first = np.unique(hashes[at], return_index=True)
    later = np.ones(len(at), np.bool_)
    later[first] = False
    return {int(position) for position in at[later]}
