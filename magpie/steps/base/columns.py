"""Columns, and what each says of itself: whether it is in the dataset, and whether it counts tokens."""

from __future__ import annotations

import pyarrow as pa

REJECTED = pa.field("rejected", pa.string())
"""A step that may reject rows has this column in `adds`: null, or the reason as "step: reason"."""

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
"""One message of a conversation; `role` is "user" or "assistant"."""

# Keys in the metadata of Arrow fields: it travels with a schema, and Arrow ignores it when it compares fields.
_INNER, _TOKENS = b"magpie.inner", b"magpie.tokens"


def inner(name: str, kind: pa.DataType) -> pa.Field:
    """A column that later steps or reports of the run read, and that is left out of its dataset."""
    return pa.field(name, kind, metadata={_INNER: b""})


def is_inner(field: pa.Field) -> bool:
    """Whether a column was made with `inner`."""
    return _INNER in (field.metadata or {})


def counts_tokens(name: str, kind: pa.DataType | None = None) -> pa.Field:
    """A column of how many tokens a model wrote for the row: int32, or a list of them, which is inner."""
    if kind is None:
        return pa.field(name, pa.int32(), metadata={_TOKENS: b""})
    return pa.field(name, kind, metadata={_TOKENS: b"", _INNER: b""})


def token_column(schema: pa.Schema) -> str | None:
    """The column of a step's `adds` that counts tokens; None where no model writes."""
    return next((field.name for field in schema if _TOKENS in (field.metadata or {})), None)
