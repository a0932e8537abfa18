"""Arrow's newer ways of storing values, as the older ones that every function of Arrow and Parquet can take.

Some writers of Parquet mark no text as such: a column of bytes under the name of a text holds texts.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from magpie.records.conversation import ANSWERS, TEXTS
from magpie.text import folded

_TEXTS = {*TEXTS, *ANSWERS, "rejected", "system", "id", "uuid", "conversation_id"}
_PLAIN = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without views and runs, at any depth; the same object where there are none."""
    if pa.types.is_run_end_encoded(kind) or pa.types.is_dictionary(kind):
        held = plain_type(kind.value_type)
        # A dictionary of views has no columns in Parquet and no casts: its values stand for themselves.
        return kind if pa.types.is_dictionary(kind) and held is kind.value_type else held
    inner = [plain_type(one) for one in _inner(kind)]
    if not _is_list_view(kind) and all(one is was for one, was in zip(inner, _inner(kind), strict=True)):
        return _PLAIN.get(kind, kind)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(one) for field, one in zip(kind, inner, strict=True)])
    if pa.types.is_map(kind):
        return pa.map_(*inner, keys_sorted=kind.keys_sorted)
    held = kind.value_field.with_type(inner[0])
    is_large = pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind)
    return pa.large_list(held) if is_large else pa.list_(held, _size(kind))


def held_type(name: str, kind: pa.DataType) -> pa.DataType:
    """The type in which a column of this name is read: plain, and a text where its bytes are one by their name."""
    kind = plain_type(kind)
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    if not is_bytes or folded(name).strip() not in _TEXTS:
        return kind
    return pa.string() if pa.types.is_binary(kind) else pa.large_string()


def as_held(name: str, values: Any) -> Any:
    """The values of a column in that type. Raises ArrowInvalid and UnicodeDecodeError where a text is not UTF-8."""
    values, kind = as_plain(values), held_type(name, values.type)
    return values if values.type == kind else values.cast(kind)


def as_plain(values: Any) -> Any:
    """The values in their plain type. Raises UnicodeDecodeError where a text within a list is not UTF-8."""
    kind = plain_type(values.type)
    if kind is values.type:
        return values
    if kind in _PLAIN.values() and values.type in _PLAIN:
        return values.cast(kind)
    # Arrow's own casts of nested views leave arrays that it then calls invalid.
    return pa.array(values.to_pylist(), kind)


def _inner(kind: pa.DataType) -> list[pa.DataType]:
    if pa.types.is_struct(kind):
        return [field.type for field in kind]
    if pa.types.is_map(kind):
        return [kind.key_type, kind.item_type]
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return [kind.value_type] if _is_list_view(kind) or any(test(kind) for test in tests) else []


def _size(kind: pa.DataType) -> int:
    size: int = kind.list_size if pa.types.is_fixed_size_list(kind) else -1
    return size


def _is_list_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))
