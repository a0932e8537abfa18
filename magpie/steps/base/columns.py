"""Columns, and what each says of itself: what it means, whether it is in the dataset, whether it counts tokens."""

from __future__ import annotations

import pyarrow as pa

# Keys in the metadata of Arrow fields: it travels with a schema, and Arrow ignores it when it compares fields.
_INNER, _TOKENS = b"magpie.inner", b"magpie.tokens"
_MEANING, _PUBLISHED = b"magpie.meaning", b"magpie.published"


def column(name: str, kind: pa.DataType, meaning: str, *, published: str | None = None) -> pa.Field:
    """A column, what its values mean in one sentence, and its name in the published Magpie datasets, if it is there."""
    names = {} if published is None else {_PUBLISHED: published.encode()}
    return pa.field(name, kind, metadata={_MEANING: meaning.encode(), **names})


def inner(name: str, kind: pa.DataType, meaning: str = "", *, published: str | None = None) -> pa.Field:
    """A column that later steps or reports of the run read, and that is left out of its dataset."""
    return _marked(column(name, kind, meaning, published=published), _INNER)


def is_inner(field: pa.Field) -> bool:
    """Whether a column was made with `inner`."""
    return _INNER in (field.metadata or {})


def counts_tokens(name: str, kind: pa.DataType | None = None, meaning: str = "") -> pa.Field:
    """A column of how many tokens a model wrote for the row: int32, or a list of them, which is inner."""
    if kind is None:
        return _marked(column(name, pa.int32(), meaning), _TOKENS)
    return _marked(column(name, kind, meaning), _TOKENS, _INNER)


def token_column(schema: pa.Schema) -> str | None:
    """The column of a step's `adds` that counts tokens; None where no model writes."""
    return next((field.name for field in schema if _TOKENS in (field.metadata or {})), None)


def meaning_of(field: pa.Field) -> str:
    """What a column says of itself; empty where it says nothing."""
    return str((field.metadata or {}).get(_MEANING, b""), "utf-8")


def published_name(field: pa.Field) -> str | None:
    """What the published Magpie datasets call the column; None where they have no such column."""
    name = (field.metadata or {}).get(_PUBLISHED)
    return None if name is None else str(name, "utf-8")


def _marked(field: pa.Field, *marks: bytes) -> pa.Field:
    return field.with_metadata({**(field.metadata or {}), **dict.fromkeys(marks, b"")})


REJECTED = column(
    "rejected",
    pa.string(),
    'Why the row is out, as "step: reason"; null in rows that are in.',
)
"""A step that may reject rows has this column in `adds`: null, or the reason as "step: reason"."""

DOCUMENT = inner(
    "document", pa.string(), "The document, or a part of it, that the instruction was written about."
)
"""A column of runs that are given documents: what stands before the instruction in the user's first message."""

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
"""One message of a conversation; `role` is "user" or "assistant"."""
