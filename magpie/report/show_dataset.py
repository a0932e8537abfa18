"""Rows of a dataset that no run is around, printed: some of them, or one in full."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.rule import Rule

from magpie.data.conversations import as_messages, conversation_column
from magpie.errors import RunError
from magpie.escaping import one_line
from magpie.report.show import card, print_fields
from magpie.report.text import as_text
from magpie.runs.opened import OpenDataset

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console


def show_dataset_rows(dataset: OpenDataset, console: Console, *, n: int = 5, seed: int = 0) -> None:
    """Print `n` rows as cards, chosen by `seed`."""
    total = sum(table.num_rows for table in dataset.tables())
    chosen = sorted(random.Random(seed).sample(range(total), min(n, total)))
    column = conversation_column(dataset.schema)
    for table in tables_at(dataset, chosen):
        conversations = as_messages(table, column).to_pylist()
        for row, messages in zip(named(dataset, table), conversations, strict=True):
            console.print(card({"id": "", **row, "messages": messages or []}))
    if not total:
        console.print("the dataset holds no row", highlight=False)


def show_dataset_row(dataset: OpenDataset, typed: str, console: Console) -> None:
    """Print one row in full: its columns, and those that follow from its recipe. Raises RunError.

    `typed` is the row's id, or its position in the dataset.
    """
    position = _position(dataset, typed)
    asked = [field.name for field in dataset.derived]
    for table in tables_at(dataset, [position], asked):
        for row in named(dataset, table):
            console.print(Rule(as_text(str(row.get("id", position)), "bold"), align="left"))
            print_fields(row, console)


def named(dataset: OpenDataset, table: pa.Table) -> list[dict[str, Any]]:
    """The rows, with the names of labels where the dataset holds their numbers."""
    rows: list[dict[str, Any]] = table.to_pylist()
    for column, names in dataset.labels.items():
        for row in rows:
            label = row.get(column)
            if isinstance(label, int) and 0 <= label < len(names):
                row[column] = names[label]
    return rows


def tables_at(dataset: OpenDataset, positions: list[int], derived: Sequence[str] = ()) -> Iterator[pa.Table]:
    """The rows at these positions, in ascending order."""
    start = 0
    for table in dataset.tables(derived):
        here = [position - start for position in positions if start <= position < start + table.num_rows]
        if here:
            yield table.take(pa.array(here, pa.int64()))
        start += table.num_rows


def _position(dataset: OpenDataset, typed: str) -> int:
    """Where the row with this id, or at this position, is."""
    start = 0
    for table in dataset.tables():
        ids = table["id"].to_pylist() if "id" in table.column_names else []
        # An id is looked for first: it may be a number, too.
        for at, row_id in enumerate(ids):
            if str(row_id) == typed:
                return start + at
        start += table.num_rows
    if typed.isascii() and typed.isdigit() and len(typed) < 19 and int(typed) < start:
        return int(typed)
    raise RunError(
        f"{dataset.place} has no row {one_line(typed)!r}; give its id, or its position from 0 to {start - 1}"
    )
