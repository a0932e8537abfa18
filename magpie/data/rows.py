"""What is read of a dataset by those that make others of it: see `runs/opened.py`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from magpie.data.conversations import as_messages, conversation_column
from magpie.data.importing import first_text


class Rows(Protocol):
    """A dataset, wherever it lies."""

    @property
    def place(self) -> Path:
        """Its folder or file."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of its files."""

    @property
    def about(self) -> Mapping[str, Any]:
        """Where its rows come from, as its manifest says."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where its files lie."""

    def tables(self, derived: Collection[str] = ()) -> Iterator[pa.Table]:
        """All rows, some at a time, with derived columns of these names."""


def talks_of(rows: pa.Table) -> Any:
    """The conversations of some rows, as messages. Raises RunError where there are none."""
    return as_messages(rows, conversation_column(rows.schema))


def instructions_of(dataset: Rows) -> list[str]:
    """The first instruction of each row; "" where there is none."""
    texts: list[str] = []
    for table in dataset.tables():
        texts += [first_text(turns, "user") or "" for turns in talks_of(table).to_pylist()]
    return texts


def ids_of(rows: pa.Table, dataset: Rows, first: int) -> list[str]:
    """The id of each row; the dataset's name and the row's position where it has none."""
    name = next((name for name in ("id", "uuid", "conversation_id") if name in rows.column_names), None)
    held = [None] * rows.num_rows if name is None else rows[name].to_pylist()
    return [
        f"{dataset.name}-{at:07d}" if text is None or text == "" else str(text)
        for at, text in enumerate(held, start=first)
    ]
