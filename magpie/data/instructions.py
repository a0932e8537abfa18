"""The instructions of datasets that were made elsewhere: a run, files of any shape, a dataset of the hub."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from magpie.data.hub import hub_dataset
from magpie.errors import RecipeError
from magpie.recipe import NamedDataset
from magpie.records.conversation import COLUMNS, questions_of, written_names
from magpie.records.folders import find_files
from magpie.records.opening import is_records
from magpie.records.rows import Note, Record, read_rows
from magpie.steps.base import Instructions
from magpie.text import folded, printable

_log = logging.getLogger(__name__)
_EXAMPLES = 3  # rows that a line about unread rows names


def warn(note: str) -> None:
    """Say on one line what was not read, or read in another way than it stands there."""
    _log.warning("%s", printable(note))


def read_instructions(named: str | NamedDataset, note: Note = warn) -> Instructions:
    """The instructions of a run's folder, a file of records, a folder of such files, or a hub dataset.

    A name may end in `:SPLIT`, for another split than train; a hub dataset is ORG/NAME. Rows without an instruction are
    passed over, and counted in one line to `note`. Raises RecipeError when there is no such dataset, no column of it
    holds instructions, or not one row has one.
    """
    dataset = NamedDataset(path=named) if isinstance(named, str) else named
    reader = _Reader(dataset, str(dataset))
    for number, record in enumerate(_records(dataset, reader.columns, note), start=1):
        reader.take(number, record.value)
    return reader.result(note)


class _Reader:
    """Takes rows, and keeps their instructions."""

    def __init__(self, dataset: NamedDataset, name: str) -> None:
        self.dataset = dataset
        self.name = name
        self.ids: list[str] = []
        self.places: list[str] = []
        self.texts: list[str] = []
        self.later: list[tuple[str, str]] = []
        self.rows = 0
        self.unread: list[str] = []
        self.unread_rows = 0

    @property
    def looked_for(self) -> tuple[str, ...]:
        """The columns that may hold an instruction, in the form in which names are compared."""
        return COLUMNS if self.dataset.column is None else (folded(self.dataset.column).strip(),)

    def columns(self, names: list[str]) -> list[str]:
        """The columns of a table to read. All of them if none can hold an instruction, so that an error names them."""
        wanted = [name for name in names if folded(name).strip() in {"id", *self.looked_for, "input"}]
        return wanted if {folded(name).strip() for name in wanted} & {*self.looked_for} else names

    def take(self, number: int, value: Any) -> None:
        """Read one row."""
        self.rows = number
        row = value if isinstance(value, dict) else {"messages" if isinstance(value, list) else "text": value}
        names = written_names(row)
        questions = self._questions(row, names)
        if not questions:
            self.unread_rows += 1
            if len(self.unread) < _EXAMPLES:
                there = [f"`{names[name]}`" for name in self.looked_for if name in names]
                what = (
                    f"{' and '.join(there)} without a text of the user"
                    if there
                    else f"it has {', '.join(map(str, row)) or 'nothing'}"
                )
                self.unread.append(f"row {number} ({what})")
            return
        place = f"{self.name}:{number}"
        own = row.get(names["id"]) if "id" in names else None
        self.places.append(place)
        self.ids.append(place if own is None or own == "" else str(own))
        self.texts.append(questions[0])
        self.later += [(place, question) for question in questions[1:]]

    def _questions(self, row: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
        for name in self.looked_for:
            questions = questions_of(row[names[name]]) if name in names else []
            if questions:
                # Alpaca's two fields: what is to be done, and with what.
                with_input = name == "instruction" and self.dataset.column is None and "input" in names
                more = row[names["input"]] if with_input else None
                if isinstance(more, str) and more.strip():
                    questions[0] = f"{questions[0]}\n{more.strip()}"
                return questions
        return []

    def result(self, note: Note) -> Instructions:
        """What was read. Raises RecipeError where nothing was."""
        if self.rows and not self.texts:
            raise RecipeError(self._nothing())
        if self.unread_rows:
            more = ", ..." if self.unread_rows > len(self.unread) else ""
            note(
                f"{self.name}: {self.unread_rows:,} of {self.rows:,} rows have no instruction that can be read: "
                f"{', '.join(self.unread)}{more}"
            )
        later_places, later_texts = [place for place, _ in self.later], [text for _, text in self.later]
        return Instructions(
            self.name,
            tuple(self.ids),
            tuple(self.places),
            tuple(self.texts),
            _digest([self.ids, self.texts]),
            tuple(later_places),
            tuple(later_texts),
            _digest([later_places, later_texts]) if later_texts else None,
        )

    def _nothing(self) -> str:
        first = self.unread[0].removeprefix("row 1 (").removesuffix(")")
        if self.dataset.column is not None:
            return (
                f"not one row of {self.name} has an instruction in the column {self.dataset.column!r}: "
                f"{first} in row 1; name another `column`"
            )
        if first.startswith("it has "):
            return (
                f"row 1 of {self.name} has no instruction; {first}, and one of these is looked for: "
                f"{', '.join(COLUMNS)}; name its column, as in {{path: {self.dataset.path}, column: NAME}}"
            )
        return f"not one row of {self.name} has an instruction: {first} in row 1; give a dataset with one"


def _digest(content: list[Any]) -> str:
    # JSON, so that no other ids and texts give the same bytes; in ASCII, since half of a surrogate pair has no UTF-8.
    return hashlib.blake2b(json.dumps(content, ensure_ascii=True).encode(), digest_size=16).hexdigest()


def _records(dataset: NamedDataset, columns: Any, note: Note) -> Iterator[Record]:
    path, split = _located(dataset)
    if path is None:
        yield from _rows_of_hub(dataset, split, columns)
        return
    # Of a run only the dataset: its folder also holds a log and a report, which are JSON.
    folder = path / "dataset" if (path / "recipe.yaml").is_file() else path
    if folder != path and not folder.is_dir():
        raise RecipeError(f"{path} holds no dataset; finish its build, or name a file in it")
    files = find_files(folder, split)
    for line in files.notes:
        note(line)
    for file in files.paths:
        yield from read_rows(file, columns=columns, note=note)


def _located(dataset: NamedDataset) -> tuple[Path | None, str | None]:
    """The path of files, or None for a hub dataset, and the split."""
    if _exists(dataset.path):
        return Path(dataset.path), dataset.split
    name, _, split = dataset.path.rpartition(":")
    if name and dataset.split is None and _exists(name):
        return Path(name), split
    return None, dataset.split


def _exists(name: str) -> bool:
    try:
        return Path(name).exists() or Path(name).is_symlink()
    except (OSError, ValueError):  # a name that is too long, or that no file can have
        return False


def _rows_of_hub(dataset: NamedDataset, split: str | None, columns: Any) -> Iterator[Record]:
    name, _, named_split = dataset.path.partition(":")
    if name.count("/") != 1 or is_records(name) or name.startswith((".", "/")):
        raise RecipeError(f"there is no {dataset}; give a run, a file, or a hub dataset as ORG/NAME")
    table = hub_dataset(name, split or named_split or "train", dataset)
    for number, row in enumerate(table.select_columns(columns(table.column_names)), start=1):
        yield Record(number, row)
