"""What every step is: columns in, columns out, row by row or over the whole run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.errors import ModelError
from magpie.neighbors.vectors import NoDirectionError, Positions, ProgressCallback, UnitVectors

if TYPE_CHECKING:
    from magpie.chat import PlainText, Transcript
    from magpie.engines.base import Engine

REJECTED = pa.field("rejected", pa.string())
"""A step that may reject rows has this column in `adds`: null, or "step: reason"."""

_INNER, _TOKENS = b"magpie.inner", b"magpie.tokens"

NOTE = b"magpie.note"
"""A global step that has something to say of its result puts JSON under this key of the table's schema metadata."""


def inner(name: str, kind: pa.DataType) -> pa.Field:
    """A column that serves the run, and is not in its dataset."""
    return pa.field(name, kind, metadata={_INNER: b""})


def is_inner(field: pa.Field) -> bool:
    """Whether a column was made with `inner`."""
    return _INNER in (field.metadata or {})


def counts_tokens(name: str, kind: pa.DataType | None = None) -> pa.Field:
    """A column of how many tokens a model wrote for the row: int32, or a list of them, which is inner."""
    if kind is None:
        return pa.field(name, pa.int32(), metadata={_TOKENS: b""})
    return pa.field(name, kind, metadata={_TOKENS: b"", _INNER: b""})


def token_column(step: RowStep | GlobalStep) -> str | None:
    """The column in which a step counts tokens; None where no model writes."""
    return next((field.name for field in step.adds if _TOKENS in (field.metadata or {})), None)


@runtime_checkable
class RowStep(Protocol):
    """Adds columns to the rows of one shard.

    `run` is given `id`, `index` (int64, the row's position in the run), `rejected` and the columns in `reads`, and
    returns `id` and the columns in `adds`, for the same rows in the same order. Rows whose `rejected` is set are
    passed over: their new columns are null. A column that is there already is replaced. `settings` is all that shapes
    the output besides the model: it goes into the step's fingerprint. `version` rises when the code starts to give
    other output for the same settings.
    """

    @property
    def name(self) -> str: ...
    @property
    def reads(self) -> tuple[str, ...]: ...
    @property
    def adds(self) -> pa.Schema: ...
    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def version(self) -> int: ...

    async def run(self, rows: pa.Table, engine: Engine | None) -> pa.Table: ...


@runtime_checkable
class GlobalStep(Protocol):
    """Adds columns that depend on every row of the run. The attributes mean what they mean in RowStep."""

    @property
    def name(self) -> str: ...
    @property
    def reads(self) -> tuple[str, ...]: ...
    @property
    def adds(self) -> pa.Schema: ...
    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def version(self) -> int: ...

    def run_all(self, rows: pa.Table) -> pa.Table: ...


@runtime_checkable
class Prepared(Protocol):
    """A row step with something large to load: `prepare` is awaited before its phase, `close` after it.

    What loads in compiled code often lets no other Python thread run, and an engine at work would stand still.
    """

    async def prepare(self) -> None: ...

    async def close(self) -> None: ...


@runtime_checkable
class Judging(Protocol):
    """A row step whose model is shown finished conversations, in the words of its own chat template.

    With `scores` the model is a reward model, and `run` is given a Scorer in place of an Engine.
    """

    def with_transcript(self, transcript: Transcript) -> RowStep: ...


@runtime_checkable
class Plain(Protocol):
    """A row step whose model is a base model, and is given plain text to go on with."""

    def with_plain(self, plain: PlainText) -> RowStep: ...


@runtime_checkable
class Watched(Protocol):
    """A global step that can take long: the one that `with_watch` gives says how far it is.

    What the watch raises ends the work.
    """

    def with_watch(self, watch: ProgressCallback) -> GlobalStep: ...


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
