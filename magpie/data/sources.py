"""Where a column of the published datasets comes from in other files: another name, or another column.

A filter uses the names of the published Magpie datasets, in lower case. The files may write a name in another case, or
use the name of an older set. Or they lack the column and hold it in another form: the first instruction of a
conversation, or the length of a text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from magpie.records.conversation import CONVERSATIONS, exchange_of, turns_of
from magpie.records.schemas import label_names

OTHER_NAMES = {
    "id": ("uuid", "conversation_id"),
    "uuid": ("conversation_id",),
    "min_similar_uuid": ("min_similar_conversation_id",),
    "instruction": ("input", "prompt", "question", "query", "problem"),
    "response": ("output", "completion", "answer"),
    "instruction_length": ("input_length",),
    "response_length": ("output_length",),
    "llama_guard": ("llama_guard_2",),
    "other_task_categories": ("other_task_category",),
}
"""Columns, and what they are called in other sets: `input` and `output` are those of the first published one."""

_FIRST_EXCHANGE = (
    "instruction",
    "response",
)  # what a conversation holds of these: its first question, and the answer
# In a set of preferences the question and the answer are in columns of their own, each a list of messages.
_MESSAGES_OF = {"instruction": ("prompt", "chosen"), "response": ("completion", "chosen")}

GREETED = "begin with the assistant: its first turn is left out"
UNREAD = "hold no conversation that can be read"

Tally = Counter[tuple[str, str]]

Make = Callable[[Any], Any]
"""Makes the values of one column from an Arrow array of those of another."""


@dataclass(frozen=True, slots=True)
class Source:
    """A column of the files, and what is made of its values; None when they are taken as they are."""

    column: str
    make: Make | None = None


def source_of(name: str, schema: pa.Schema, tally: Tally | None = None) -> Source | None:
    """Where the values of the column `name` come from in files of `schema`; None when they hold nothing of it.

    `tally` counts, by what was found and by column, conversations that were not read as they stand there.
    """
    written = {column.strip().lower(): column for column in reversed(schema.names)}
    for candidate in (name, *OTHER_NAMES.get(name, ())):
        column = written.get(candidate)
        if column is not None and (candidate == name or _is_plain(schema.field(column).type)):
            labels = label_names(schema).get(column)
            return Source(column, None if labels is None else _names_of(labels))
    if name.endswith("_length"):
        # The text may be made from another column itself: `response_length` from the first answer in `conversations`.
        text = source_of(name.removesuffix("_length"), schema)
        if text is None or (text.make is None and not _is_text(schema.field(text.column).type)):
            return None
        return Source(text.column, _then_length(text.make))
    if name in _FIRST_EXCHANGE:
        for candidate in (*CONVERSATIONS, *_MESSAGES_OF[name]):
            column = written.get(candidate)
            if column is not None and _may_be_conversation(schema.field(column).type):
                return Source(column, _of_exchange(name, Counter() if tally is None else tally))
    return None


def _then_length(make: Make | None) -> Make:
    """What `make` makes, and of that the lengths in characters."""

    def length(values: Any) -> Any:
        texts = values if make is None else make(values)
        # `utf8_length` takes no dictionary and no view; large strings have room for a batch of any size.
        return pc.utf8_length(texts.cast(pa.large_string())).cast(pa.int64())

    return length


def _of_exchange(name: str, tally: Tally) -> Make:
    """The first question of each conversation, or the answer to it; null where there is none."""

    def first(conversations: Any) -> Any:
        found = []
        for value in conversations.to_pylist(maps_as_pydicts="lossy"):
            question, answer, greeted = exchange_of(value)
            if question is None and answer is None and value is not None and name == "response":
                # `completion` and `chosen` may hold the answer alone.
                answer = next((turn.text for turn in turns_of(value) or () if turn.role == "assistant"), None)
            tally[GREETED, name] += greeted and question is not None
            tally[UNREAD, name] += value is not None and question is None and answer is None
            found.append(question if name == "instruction" else answer)
        return pa.array(found, pa.string())

    return first


def _names_of(labels: tuple[str, ...]) -> Make:
    """The names of labels that are stored as numbers; null for a number that has none, such as -1."""

    def named(numbers: Any) -> Any:
        return pa.array(
            [labels[at] if at is not None and 0 <= at < len(labels) else None for at in numbers.to_pylist()],
            pa.string(),
        )

    return named


def _is_plain(kind: pa.DataType) -> bool:
    """Whether values are no lists and no objects."""
    return not pa.types.is_nested(kind)


def _may_be_conversation(kind: pa.DataType) -> bool:
    """Whether values may be conversations: lists, objects that hold them, or JSON text."""
    return not _is_plain(kind) or _is_text(kind)


def _is_text(kind: pa.DataType) -> bool:
    """Whether values are texts, or all of them are null."""
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(test(kind) for test in tests)
