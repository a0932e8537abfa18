"""The rows of one file of records, one after another, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from magpie.errors import RecipeError
from magpie.records.csv_rows import CsvRows
from magpie.records.encoding import MARK, text_stream, unreadable
from magpie.records.json_rows import JsonRows
from magpie.records.opening import DAMAGE, Kind, cannot_read, ending, one_line, opened
from magpie.records.tables import read_table
from magpie.text import counted

Note = Callable[[str], None]
"""Takes a line that says what was not read, or read in another way than it stands there."""


@dataclass(frozen=True, slots=True)
class Record:
    """A row: its place (a line of a text, a row of a table), and its value, a dict by column or a bare text."""

    place: int
    value: Any


def no_note(_: str) -> None:
    """Says nothing."""


def read_rows(
    path: Path, *, columns: Callable[[list[str]], list[str]] | None = None, note: Note = no_note
) -> Iterator[Record]:
    """The rows of a file. Of a table only the `columns` that are chosen from its own are read.

    Raises RecipeError, which names the file and, where it is known, the line or row and the column.
    """
    count = 0
    try:
        with opened(path) as found:
            for record in _records(path, found, columns, note):
                count += 1
                yield record
    except DAMAGE as error:
        wrong = f"{path} cannot be read ({one_line(error)}); check the file, or fetch it anew"
        raise cannot_read(path, error, wrong) from error
    if not count:
        note(f"{path} is empty: it has no rows")


def _records(
    path: Path,
    content_of: tuple[Kind, bytes, IO[bytes]],
    columns: Callable[[list[str]], list[str]] | None,
    note: Note,
) -> Iterator[Record]:
    kind, start, content = content_of
    if kind in {"parquet", "arrow"}:
        yield from (Record(*found) for found in read_table(path, kind, start, content, columns))
        return
    with text_stream(content, start, newline="" if kind == "csv" else None) as text:
        if kind == "csv":
            yield from _csv(path, text, note)
        elif kind == "json":
            yield from _json(path, text, note)
        else:
            yield from _lines(path, text)


def _csv(path: Path, text: IO[str], note: Note) -> Iterator[Record]:
    table = CsvRows(text, str(path), tabs=ending(path.name) == ".tsv")
    yield from (Record(*found) for found in table)
    if table.short:
        note(f"{path}: {counted(table.short, 'row')} with fewer fields than the header; the rest is null")


def _json(path: Path, text: IO[str], note: Note) -> Iterator[Record]:
    rows = JsonRows(text, str(path))
    yield from (Record(*found) for found in rows)
    for key, times in rows.repeated.items():
        note(f"{path}: {counted(times, 'object')} with the key {key!r} twice; the last one is read")
    if rows.mended:
        note(f"{path}: {counted(rows.mended, 'row')} with half a character (a lone surrogate), now U+FFFD")


def _lines(path: Path, file: IO[str]) -> Iterator[Record]:
    for number, line in enumerate(file, start=1):
        if unreadable(line):
            raise RecipeError(f"line {number} of {path} is not UTF-8 text; save it as UTF-8")
        text = line.strip(MARK + " \t\r\n")
        if text:
            yield Record(number, text)
