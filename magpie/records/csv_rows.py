"""The rows of a CSV or TSV file, as texts by column."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import IO

from magpie.errors import RecipeError
from magpie.records.encoding import unreadable

_LARGEST_FIELD = 1 << 30
_DELIMITERS = ",\t;|"
_TELLS_DELIMITER = re.compile(r"sep=([^\s\"]|\t)\s*")


class CsvRows:
    """The rows of one file; a field that is empty is None. `short` counts rows with fewer fields than the header."""

    def __init__(self, file: IO[str], origin: str, *, tabs: bool) -> None:
        self._file = file
        self._origin = origin
        self._tabs = tabs
        self.short = 0

    def __iter__(self) -> Iterator[tuple[int, dict[str, str | None]]]:
        """(line, row) of each row. Raises RecipeError, which names the line, and the column where it can."""
        csv.field_size_limit(_LARGEST_FIELD)
        first = self._file.readline().lstrip("\ufeff")
        if told := _TELLS_DELIMITER.fullmatch(first):  # as Excel has it, before the header
            first = self._file.readline()
        if not first:
            return
        delimiter = told[1] if told else "\t" if self._tabs else max(_DELIMITERS, key=first.count)
        reader = csv.reader(_after(first, self._file), delimiter=delimiter, strict=True)

        def line() -> int:
            return reader.line_num + (told is not None)

        try:
            names = self._names(next(reader), line())
            for fields in reader:
                if not fields:
                    continue  # a blank line
                if len(fields) > len(names):
                    raise RecipeError(
                        f"line {line()} of {self._origin} has {len(fields)} fields, and the header "
                        f"{len(names)}; put fields that hold commas into quotes"
                    )
                self.short += len(fields) < len(names)
                row = {name: field or None for name, field in zip_longest(names, fields)}
                self._refuse_bytes(row, line())
                yield line(), row
        except csv.Error as error:
            raise RecipeError(
                f"line {line()} of {self._origin} is not CSV: {error}; mend that line"
            ) from error

    def _names(self, header: list[str], line: int) -> list[str]:
        names = [name.strip() or f"column_{number}" for number, name in enumerate(header, start=1)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise RecipeError(f"{self._origin} has two columns {twice!r}; give each a name of its own")
        if any(unreadable(name) for name in names):
            raise RecipeError(f"line {line} of {self._origin} is not UTF-8 text; save it as UTF-8")
        return names

    def _refuse_bytes(self, row: dict[str, str | None], line: int) -> None:
        for name, field in row.items():
            if field is not None and unreadable(field):
                raise RecipeError(
                    f"{self._origin}: column `{name}`, line {line}: not UTF-8 text; save the file as UTF-8"
                )


def _after(first: str, rest: IO[str]) -> Iterator[str]:
    yield first
    yield from rest
