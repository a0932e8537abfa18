"""Where a column of the published datasets comes from in other files: another name, or another column.

A filter uses the names of the published Magpie datasets, in lower case. The files may write a name in another case, or
use the name of an older set. Or they lack the column and hold it in another form: the first instruction of a
conversation, or the length of a text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.messages import ASSISTANT_ROLES, USER_ROLES

OTHER_NAMES = {
    "id": ("uuid", "conversation_id"),
    "uuid": ("conversation_id",),
    "min_similar_uuid": ("min_similar_conversation_id",),
    "instruction": ("input",),
    "response": ("output",),
    "instruction_length": ("input_length",),
    "response_length": ("output_length",),
    "llama_guard": ("llama_guard_2",),
    "other_task_categories": ("other_task_category",),
}
"""Columns, and what they are called in older sets: `input` and `output` are those of the first one."""

_SPEAKERS = {"instruction": USER_ROLES, "response": ASSISTANT_ROLES}
# Columns that hold conversations, and the fields of a turn in them: who speaks, and the text.
_CONVERSATIONS = {"conversations": ("from", "value"), "messages": ("role", "content")}

Make = Callable[[Any], Any]
"""Makes the values of one column from an Arrow array of those of another."""


@dataclass(frozen=True, slots=True)
class Source:
    """A column of the files, and what is made of its values; None when they are taken as they are."""

    column: str
    make: Make | None = None


def source_of(name: str, schema: pa.Schema) -> Source | None:
    """Where the values of the column `name` come from in files of `schema`; None when they hold nothing of it."""
    written = {column.lower(): column for column in schema.names}
    for candidate in (name, *OTHER_NAMES.get(name, ())):
        if candidate in written:
            return Source(written[candidate])
    if name.endswith("_length"):
        # The text may be made from another column itself: `response_length` from the first answer in `conversations`.
        text = source_of(name.removesuffix("_length"), schema)
        if text is None or (text.make is None and not _is_text(schema.field(text.column).type)):
            return None
        return Source(text.column, _then_length(text.make))
    if name in _SPEAKERS:
        for column, (role, content) in _CONVERSATIONS.items():
            if column in written and _is_conversation(schema.field(written[column]).type, role, content):
                return Source(written[column], _first_message_of(_SPEAKERS[name], role, content))
    return None


def _then_length(make: Make | None) -> Make:
    """What `make` makes, and of that the lengths in characters."""

    def length(values: Any) -> Any:
        texts = values if make is None else make(values)
        # `utf8_length` takes no dictionary and no view; large strings have room for a batch of any size.
        return pc.utf8_length(texts.cast(pa.large_string())).cast(pa.int64())

    return length


def _first_message_of(speakers: frozenset[str], role: str, content: str) -> Make:
    """The first message of one of the speakers in each conversation; null where there is none."""

    def first(conversations: Any) -> Any:
        messages = (
            next((turn[content] for turn in turns or () if turn and turn[role] in speakers), None)
            for turns in conversations.to_pylist()
        )
        return pa.array(list(messages), pa.string())

    return first


def _is_text(kind: pa.DataType) -> bool:
    """Whether values are texts, or all of them are null."""
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(test(kind) for test in tests)


def _is_conversation(kind: pa.DataType, role: str, content: str) -> bool:
    """Whether values are lists of turns with these two fields: other datasets use the same column names otherwise."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return (
        is_list
        and pa.types.is_struct(kind.value_type)
        and all(
            kind.value_type.get_field_index(name) >= 0 and _is_text(kind.value_type.field(name).type)
            for name in (role, content)
        )
    )
