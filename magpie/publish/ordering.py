"""In which order rows are exported, and into which parts; and how rows are brought into another order.

A shuffle is one permutation of all rows, drawn from the seed. It takes eight bytes a row, and no row is held for it:
rows are written, as they come, to temporary files by where they will go, some ten thousand rows a file, and each of
these is then read, put in order and passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.errors import RecipeError
from magpie.neighbors.vectors import Positions

Tables = Callable[[], Iterator[pa.Table]]
"""Gives the rows, from the first on, each time it is called."""

PARTS = {1: ("",), 2: ("train", "test"), 3: ("train", "validation", "test")}
"""What parts are called, by how many there are."""

_BUCKET_ROWS = 20_000
_MOST_BUCKETS = 256  # files that are open at once
_AT = "__at"


def shares_of(text: str) -> tuple[float, ...]:
    """The shares in a text such as "0.98/0.02". Raises RecipeError."""
    try:
        shares = tuple(float(part) for part in text.split("/"))
    except ValueError:
        shares = ()
    if len(shares) not in {2, 3} or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise RecipeError(
            f"--split {text!r}: write two shares, or three, that add up to 1, such as 0.98/0.02 for train and test"
        )
    return shares


def drawn(positions: Positions, seed: int | None) -> Positions:
    """The positions in an order that the seed decides; as they are without one."""
    return positions if seed is None else np.random.default_rng(seed).permutation(positions)


def parted(order: Positions, shares: Sequence[float], seed: int | None) -> dict[str, Positions]:
    """The rows of each part, by its name. Without a seed they are drawn with 0, and stay in their order."""
    ends = np.rint(np.cumsum([0.0, *shares]) * len(order)).astype(np.int64)
    places = np.arange(len(order)) if seed is not None else np.random.default_rng(0).permutation(len(order))
    parts = [places[start:end] for start, end in pairwise(ends)]
    return {name: order[np.sort(part)] for name, part in zip(PARTS[len(shares)], parts, strict=True)}


@contextmanager
def arranged(tables: Tables, order: Positions, rows: int) -> Iterator[Tables]:
    """The rows at the positions in `order`, of `rows` in all, in that order."""
    if len(order) < 2 or (np.diff(order) > 0).all():
        mask = np.zeros(rows, np.bool_)
        mask[order] = True
        yield tables if mask.all() else lambda: _filtered(tables(), mask)
        return
    with TemporaryDirectory(prefix="magpie-") as folder:
        size = max(_BUCKET_ROWS, -(-len(order) // _MOST_BUCKETS))
        schema, files = _scattered(tables(), order, rows, size, Path(folder))

        def gathered() -> Iterator[pa.Table]:
            yield schema.empty_table()
            for file in files:
                with pa.memory_map(str(file)) as source:
                    table = pa.ipc.open_stream(source).read_all()
                yield table.take(pc.sort_indices(table[_AT])).drop_columns([_AT])

        yield gathered


def _filtered(tables: Iterator[pa.Table], mask: np.ndarray) -> Iterator[pa.Table]:
    at = 0
    for table in tables:
        yield table.filter(pa.array(mask[at : at + table.num_rows]))
        at += table.num_rows


def _scattered(
    tables: Iterator[pa.Table], order: Positions, rows: int, size: int, folder: Path
) -> tuple[pa.Schema, list[Path]]:
    """Write the rows to files by where they go: the first holds the first `size` rows of the order, and so on."""
    goes_to = np.full(rows, -1, np.int64)
    goes_to[order] = np.arange(len(order))
    files = [folder / f"{number:05d}.arrow" for number in range(-(-len(order) // size))]
    schema: pa.Schema | None = None
    writers: dict[int, pa.RecordBatchStreamWriter] = {}
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    at = 0
    try:
        for table in tables:
            schema = schema or table.schema
            to = goes_to[at : at + table.num_rows]
            at += table.num_rows
            marked = table.append_column(_AT, pa.array(to))
            for bucket in np.unique(to[to >= 0] // size).tolist():
                if bucket not in writers:
                    writers[bucket] = pa.ipc.new_stream(str(files[bucket]), marked.schema, options=options)
                writers[bucket].write_table(marked.filter(pa.array((to >= 0) & (to // size == bucket))))
    finally:
        for writer in writers.values():
            writer.close()
    assert schema is not None
    return schema, files
