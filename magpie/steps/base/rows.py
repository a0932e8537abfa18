"""Rows in and rows out: which are still in, their vectors, a seed for each, and a step's result put together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.errors import ModelError
from magpie.neighbors.vectors import NoDirectionError, Positions, UnitVectors


def live(rows: pa.Table) -> list[int]:
    """The positions in `rows` of the rows that are not rejected, rising."""
    return [at for at, reason in enumerate(rows["rejected"].to_pylist()) if reason is None]


def unit_vectors(rows: pa.Table, at: Positions) -> UnitVectors:
    """The vectors of the rows at positions `at`, in that order, as stored. Raises ModelError."""
    place = np.full(rows.num_rows, -1, np.int64)
    place[at] = np.arange(len(at))
    stored: np.ndarray[Any, Any] = np.empty((len(at), 0), np.float32)
    start = 0
    for chunk in rows["embedding"].chunks:
        places = place[start : start + len(chunk)]
        start += len(chunk)
        kept = chunk.filter(pa.array(places >= 0))
        if not len(kept):
            continue
        widths = pc.unique(pc.list_value_length(kept)).to_pylist()
        values = kept.flatten().to_numpy(zero_copy_only=False)
        if not stored.shape[1] and widths[0]:
            kind = values.dtype if values.dtype == np.float16 else np.float32
            stored = np.empty((len(at), widths[0]), kind)
        if kept.null_count or widths != [stored.shape[1]] or not widths[0]:
            raise ModelError(
                "rows have no embedding, or one of another width; run the build again with one embedder"
            )
        stored[places[places >= 0]] = values.reshape(len(kept), -1)
    try:
        return UnitVectors.of(stored)
    except NoDirectionError as error:
        row = rows["id"][int(at[error.position])].as_py()
        raise ModelError(
            f"the embedding of row {row} is zero or not finite; "
            "set the embedder's `dtype` to float32, or use another embedder"
        ) from error


def spread(
    rows: pa.Table, at: Sequence[int], columns: Mapping[str, Sequence[Any]], schema: pa.Schema
) -> pa.Table:
    """A step's result: `id` of every row, and `columns`, whose values are for the rows at positions `at`.

    Every column of `schema` must be in `columns`, each value list as long as `at`; the other rows get null.
    """
    arrays: dict[str, pa.Array | pa.ChunkedArray] = {"id": rows["id"]}
    for field in schema:
        values: list[Any] = [None] * rows.num_rows
        for position, value in zip(at, columns[field.name], strict=True):
            values[position] = value
        arrays[field.name] = pa.array(values, type=field.type)
    return pa.table(arrays)


def seeds(run_seed: int, purpose: str, index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One seed for each row: int64 in [0, 2**31), from (run seed, purpose, row index) and nothing else.

    The finalizer of SplitMix64 over the position, keyed by a hash of the seed and the purpose: neighbouring positions
    get unrelated seeds, and two purposes of one row differ. 31 bits, because some servers read a seed as int32.
    """
    key = int.from_bytes(hashlib.blake2b(f"{run_seed}/{purpose}".encode(), digest_size=8).digest(), "little")
    with np.errstate(over="ignore"):
        mixed = np.asarray(index).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(33)).astype(np.int64)


def judged_or_not(errors: pa.ChunkedArray) -> list[str]:
    """What became of each row, by whether its error is null; the errors themselves say more, in many words."""
    outcomes: list[str] = pc.if_else(pc.is_null(errors), "judged", "not judged").to_pylist()
    return outcomes
