"""Rows in and rows out: which are still in, their values and vectors, a seed for each, and a step's result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.errors import ModelError
from magpie.neighbors.vectors import NoDirectionError, Positions, UnitVectors
from magpie.steps.base.columns import DOCUMENT


def live(rows: pa.Table) -> list[int]:
    """The positions in `rows` of the rows that are not rejected, in ascending order."""
    return [position for position, reason in enumerate(rows["rejected"].to_pylist()) if reason is None]


def values_at(rows: pa.Table, name: str, at: Sequence[int]) -> list[Any]:
    """The values of a column in the rows at positions `at`, in that order."""
    # The type is given for an empty `at`: Arrow would make an array of type null of it, which `take` refuses.
    values: list[Any] = rows[name].take(pa.array(at, pa.int64())).to_pylist()
    return values


def documents_in(columns: pa.Schema) -> tuple[str, ...]:
    """The column of documents, where the steps before add it: what a step reads besides the instruction."""
    return (DOCUMENT.name,) if DOCUMENT.name in columns.names else ()


def first_messages(rows: pa.Table, at: Sequence[int]) -> list[str]:
    """The user's first message in the rows at positions `at`: the instruction, behind its document if it has one."""
    instructions: list[str] = values_at(rows, "instruction", at)
    if DOCUMENT.name not in rows.column_names:
        return instructions
    documents = values_at(rows, DOCUMENT.name, at)
    return [about_document(*pair) for pair in zip(documents, instructions, strict=True)]


def first_message(row: Mapping[str, Any]) -> str:
    """The same of one row."""
    return about_document(row.get(DOCUMENT.name), row["instruction"])


def about_document(document: str | None, instruction: str) -> str:
    """The message of a user who asks about a document."""
    return instruction if document is None else f"{document}\n\n{instruction}"


def unit_vectors(rows: pa.Table, at: Positions) -> UnitVectors:
    """The vectors of the rows at positions `at`, in that order, as stored. Raises ModelError."""
    # For each row of the table its place in the result, -1 where the row is not wanted.
    place = np.full(rows.num_rows, -1, np.int64)
    place[at] = np.arange(len(at))
    stored: np.ndarray[Any, Any] = np.empty((len(at), 0), np.float32)
    start = 0
    # Chunk by chunk, so that no second copy of the whole column is made: it is the largest of a run.
    for chunk in rows["embedding"].chunks:
        places = place[start : start + len(chunk)]
        start += len(chunk)
        wanted = chunk.filter(pa.array(places >= 0))
        if not len(wanted):
            continue
        widths = pc.unique(pc.list_value_length(wanted)).to_pylist()
        values = wanted.flatten().to_numpy(zero_copy_only=False)
        if not stored.shape[1] and widths[0]:  # the first vector says how wide all of them are
            kind = values.dtype if values.dtype == np.float16 else np.float32
            stored = np.empty((len(at), widths[0]), kind)
        # A null list has no values in `flatten`, and its width is null: `reshape` would move the vectors after it.
        if wanted.null_count or widths != [stored.shape[1]] or not widths[0]:
            raise ModelError(
                "rows have no embedding, or one of another width; run the build again with one embedder"
            )
        stored[places[places >= 0]] = values.reshape(len(wanted), -1)
    try:
        return UnitVectors.of(stored)
    except NoDirectionError as error:
        row = rows["id"][int(at[error.position])].as_py()
        raise ModelError(
            f"the embedding of row {row} is zero or not finite; "
            "set the embedder's `dtype` to float32, or use another embedder"
        ) from error


def spread(
    rows: pa.Table,
    at: Sequence[int],
    columns: Mapping[str, Sequence[Any]],
    schema: pa.Schema,
    *,
    rewritten: Sequence[str] = (),
) -> pa.Table:
    """A step's result: `id` of every row, and `columns`, whose values are for the rows at positions `at`.

    Every column of `schema` must be in `columns`, each value list as long as `at`; the other rows get null. In columns
    that are `rewritten` a row keeps the value that `rows` has of it where the step has none.
    """
    arrays: dict[str, pa.Array | pa.ChunkedArray] = {"id": rows["id"]}
    for field in schema:
        is_rewritten = field.name in rewritten
        values: list[Any] = rows[field.name].to_pylist() if is_rewritten else [None] * rows.num_rows
        for position, value in zip(at, columns[field.name], strict=True):
            if value is not None or not is_rewritten:
                values[position] = value
        arrays[field.name] = pa.array(values, type=field.type)
    return pa.table(arrays)


def by_column(made: Sequence[Mapping[str, Any]], schema: pa.Schema) -> dict[str, list[Any]]:
    """What was made of each row, by column, as the columns of a schema: null where a row has none."""
    return {name: [each.get(name) for each in made] for name in schema.names}


def filled(rows: pa.Table, columns: Mapping[str, Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """The result of a step that no row can be out before: `columns` has a value for each of `rows`."""
    arrays = [pa.array(columns[field.name], type=field.type) for field in schema]
    return pa.table([rows["id"], *arrays], schema=pa.schema([("id", pa.string()), *schema]))


def seeds(run_seed: int, purpose: str, index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One seed for each row: int64 in [0, 2**31), from (run seed, purpose, row index) and nothing else.

    It is the finalizer of SplitMix64 over the row's index, keyed by a hash of the run's seed and the purpose.
    """
    # The key makes the seeds of two purposes differ in one row, such as those of an instruction and its response.
    key = int.from_bytes(hashlib.blake2b(f"{run_seed}/{purpose}".encode(), digest_size=8).digest(), "little")
    with np.errstate(over="ignore"):  # the arithmetic of SplitMix64 is modulo 2**64
        # The multiplications and shifts mix the bits, so that neighbouring rows get unrelated seeds.
        mixed = np.asarray(index).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    # Only 31 bits are kept: some servers read a seed as int32.
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(33)).astype(np.int64)


def judged_or_not(errors: pa.ChunkedArray) -> list[str]:
    """For each row "judged" where its error is null, else "not judged"."""
    # The errors themselves are not counted: they quote numbers of the row, so that nearly every one is different.
    outcomes: list[str] = pc.if_else(pc.is_null(errors), "judged", "not judged").to_pylist()
    return outcomes


MANY_CUT = 0.05
"""From this share of cut responses on, somebody should be told."""


def text_bytes(max_tokens: int) -> int:
    """About how many bytes a text that a model writes takes on disk, zstd-compressed."""
    # Three bytes a token. The limit is there because few texts are as long as `max_tokens` lets them be.
    return min(1600, 3 * max_tokens)
