"""One pass over the rows of a dataset: how many of what, how long they are, and a few of them to show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.dataset import PAIR
from magpie.data.messages import MESSAGES
from magpie.data.rows import talks_of
from magpie.figures.reviewed import Reviewed, reviewed
from magpie.publish.source import Part, Source

SHOWN_ROWS, SEED = 5, 42
COUNTED = (
    "language",
    "task_category",
    "difficulty",
    "input_quality",
    "llama_guard",
    "response_finish_reason",
    "generator",
    "license",
)
"""The columns whose values are counted."""
_PII = "_pii"  # how the columns that name kinds of personal data end
_LENGTHS = {"instruction": "instruction", "response": "response"}

OnRows = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Size:
    """The rows of a part, their bytes as Arrow holds them, and as they lie on disk."""

    rows: int
    bytes: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths in some unit: the smallest, the quartiles, the largest, and the sum."""

    least: int
    quarter: int
    median: int
    three_quarters: int
    most: int
    total: int


@dataclass(slots=True)
class Measures:
    """What the kept rows are. `counts` has a Counter for each column that counts; None in it is a null.

    `characters` are the lengths of instructions and responses, row by row. `shown` are rows drawn by a fixed seed, each
    as (id, its conversation). `conversations` are those whose tokens are to be counted.
    """

    rows: int = 0
    turns: Counter[int] = field(default_factory=Counter)
    counts: dict[str, Counter[Any]] = field(default_factory=dict)
    found: dict[str, Counter[str]] = field(default_factory=dict)
    characters: dict[str, list[int]] = field(default_factory=dict)
    shown: list[tuple[str, list[dict[str, str]]]] = field(default_factory=list)
    conversations: list[list[str]] = field(default_factory=list)
    known: list[tuple[float, str, str]] = field(default_factory=list)
    """The near copies of known datasets: how near, the instruction, and the known row."""
    review: Reviewed | None = None


def measure(source: Source, *, for_tokens: int, on_rows: OnRows = lambda _: None) -> Measures:
    """Look at every kept row. `for_tokens` conversations are kept, all of them where there are no more."""
    rows = source.kept.manifest.rows
    measures = Measures(rows=rows)
    draw = Random(SEED)
    shown = set(draw.sample(range(rows), min(SHOWN_ROWS, rows)))
    tokenized = set(range(rows)) if rows <= for_tokens else set(draw.sample(range(rows), for_tokens))
    pairs, first = source.has_pairs, 0
    for stored in source.dataset.tables():
        table = _with_messages(stored, first)
        _count(table, measures)
        found = reviewed([table])
        if found is not None:
            measures.review = found if measures.review is None else measures.review.with_(found)
        for at in _here(tokenized, first, table.num_rows):
            measures.conversations.append([each["content"] for each in _conversation(table, at, pairs)])
        for at in _here(shown, first, table.num_rows):
            messages = _conversation(table, at, pairs, whole=True)
            measures.shown.append((str(table["id"][at].as_py()), messages))
        first += table.num_rows
        on_rows(table.num_rows)
    return measures


def _with_messages(table: pa.Table, first: int) -> pa.Table:
    """The rows with an id and messages, which those of others may have by other names, or not at all."""
    if "id" not in table.column_names:
        ids = [f"row {at + 1:,}" for at in range(first, first + table.num_rows)]
        table = table.append_column("id", pa.array(ids, pa.string()))
    if "messages" in table.column_names and table.schema.field("messages").type == MESSAGES:
        return table
    talks = talks_of(table)
    kept = [name for name in table.column_names if name != "messages"]
    return table.select(kept).append_column("messages", talks)


def size_of(part: Part) -> Size:
    """How large a part is; every file of it is read."""
    import pyarrow.parquet as pq

    held = disk = 0
    for file in part.manifest.files:
        with part.files.storage.open(f"{part.files.prefix}{file.name}") as source:
            disk += source.size() if callable(source.size) else source.size
            with pq.ParquetFile(source) as parquet:
                held += sum(batch.nbytes for batch in parquet.iter_batches(8192))
    return Size(part.manifest.rows, held, disk)


def lengths(values: Sequence[int]) -> Lengths | None:
    """The spread of lengths; None where there are none."""
    if not values:
        return None
    import numpy as np

    array = np.asarray(values)
    low, middle, high = (int(value) for value in np.percentile(array, [25, 50, 75]))
    return Lengths(int(array.min()), low, middle, high, int(array.max()), int(array.sum()))


def _here(positions: set[int], first: int, rows: int) -> list[int]:
    return [index - first for index in range(first, first + rows) if index in positions]


def _count(table: pa.Table, measures: Measures) -> None:
    names = set(table.column_names)
    for name in COUNTED:
        if name in names and pa.types.is_string(table.schema.field(name).type):
            counted = Counter(
                {pair["values"]: pair["counts"] for pair in pc.value_counts(table[name]).to_pylist()}
            )
            measures.counts.setdefault(name, Counter()).update(counted)
    for name in table.column_names:
        if f"_{name}".endswith(_PII):
            kinds = measures.found.setdefault(name, Counter())
            kinds.update(kind for row in table[name].to_pylist() for kind in set(row or ()))
    if {"known_distance", "known_as", "instruction"} <= names:
        near = table.select(["known_distance", "instruction", "known_as"]).filter(
            pc.is_valid(table["known_as"])
        )
        measures.known += [tuple(row.values()) for row in near.to_pylist()]
    if "messages" in names:
        measures.turns.update(_turns(table["messages"].combine_chunks()))
    for name in _LENGTHS:
        if name in names and pa.types.is_string(table.schema.field(name).type):
            measures.characters.setdefault(name, []).extend(
                pc.utf8_length(table[name].drop_null()).to_pylist()
            )


def _turns(messages: Any) -> list[int]:
    """How many messages of each row are the user's."""
    import numpy as np

    roles = pc.struct_field(pc.list_flatten(messages), "role")
    asked = pc.list_parent_indices(messages).filter(pc.fill_null(pc.equal(roles, "user"), False))
    turns: list[int] = np.bincount(np.asarray(asked), minlength=len(messages)).tolist()
    return turns


def _conversation(table: pa.Table, at: int, pairs: bool, *, whole: bool = False) -> list[dict[str, str]]:
    """The messages of a row; of a pair, with the rejected answer as well where the row is shown `whole`."""
    if not pairs:
        return list(table["messages"][at].as_py() or [])
    prompt, chosen, rejected = (list(table[name][at].as_py() or []) for name in PAIR)
    if not whole:
        return [*prompt, *chosen]
    named = [{**each, "role": "chosen"} for each in chosen] + [
        {**each, "role": "rejected"} for each in rejected
    ]
    return [*prompt, *named]


def ordered(counts: Mapping[Any, int], order: Sequence[str] = ()) -> list[tuple[str | None, int]]:
    """Values and how often each is there: in the order of a scale, or else the most frequent first."""
    if order and counts:
        return [(value, counts.get(value, 0)) for value in order] + [
            (value, count) for value, count in counts.items() if value not in order
        ]
    return sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))
