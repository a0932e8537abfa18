"""Where a column of the published datasets comes from in other files: another name, or another column.

A filter uses the names of the published Magpie datasets, in lower case. The files may write a name in another case, or
use the name of an older set. Or they lack the column and hold it in another form: the first instruction of a
conversation, or the length of a text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from magpie.records.conversation import CONVERSATIONS, exchange_of, turns_of
from magpie.records.schemas import label_names

OTHER_NAMES = {
    "id": ("uuid", "conversation_id"),
    "uuid": ("conversation_id", "id"),
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
    """A column of the files, and what is made of its values; None when they are taken as they are.

    A text is looked for row by row: where it is null or blank, the first of `instead` that has one gives it. What
    `beside` holds in the same row follows a text of this column itself, as Alpaca's `input` its `instruction`. `then`
    is made of the texts that are found so. `missing` gives the values that are null after all this.
    """

    column: str
    make: Make | None = None
    instead: tuple[Source, ...] = ()
    beside: str | None = None
    then: Make | None = None
    missing: Source | None = None

    def values(self, of: Callable[[str], Any]) -> Any:
        """The values of some rows; `of` gives those of a column, and is asked only for columns that they need."""
        own = of(self.column)
        values = own if self.make is None else self.make(own)
        if self.beside is not None:
            values = _with_input(values, of(self.beside))
        for other in self.instead:
            blank = _blank(values)
            if not pc.any(blank, min_count=0).as_py():
                break
            own = _plain_text(values).filter(blank)
            texts = _plain_text(other.values(_only(blank, of)))
            texts = pc.if_else(_blank(texts), own, texts)
            filled = pc.replace_with_mask(_plain_text(values), blank, texts)
            values = filled.cast(_text_type(values.type))
        values = values if self.then is None else self.then(values)
        if self.missing is not None and values.null_count:
            values = pc.coalesce(values, self.missing.values(of).cast(values.type))
        return values

    def kind(self, schema: pa.Schema) -> pa.DataType:
        """The type of the values."""
        # Made from no values at all, to learn it.
        kind: pa.DataType = self.values(lambda name: pa.array([], schema.field(name).type)).type
        return _text_type(kind) if self.instead and self.then is None else kind

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that may be read."""
        others = (name for other in (*self.instead, self.missing) if other for name in other.columns)
        return (self.column, *((self.beside,) if self.beside else ()), *others)


def source_of(name: str, schema: pa.Schema, tally: Tally | None = None) -> Source | None:
    """Where the values of the column `name` come from in files of `schema`; None when they hold nothing of it.

    `tally` counts, by what was found and by column, conversations that were not read as they stand there.
    """
    written = {column.strip().lower(): column for column in reversed(schema.names)}
    for candidate in (name, *OTHER_NAMES.get(name, ())):
        column = written.get(candidate)
        if column is not None and (candidate == name or _is_plain(schema.field(column).type)):
            labels = label_names(schema).get(column)
            source = Source(column, None if labels is None else label_texts(labels))
            if name in _FIRST_EXCHANGE:
                return _filled(source, name, schema, written, tally)
            return _counted(source, name, schema) if name.endswith("_length") else source
    if name.endswith("_length"):
        return _length_of_text(name, schema)
    if name in _FIRST_EXCHANGE:
        found = _conversations(name, schema, written, tally)
        return replace(found[0], instead=found[1:]) if found else None
    return None


def _counted(source: Source, name: str, schema: pa.Schema) -> Source:
    """A length, and that of the text in rows that lack it: datasets are put together, or the text was elsewhere."""
    kind, made = schema.field(source.column).type, _length_of_text(name, schema)
    if made is None or not (pa.types.is_integer(kind) or pa.types.is_null(kind)):
        return source
    return made if pa.types.is_null(kind) else replace(source, missing=made)


def _length_of_text(name: str, schema: pa.Schema) -> Source | None:
    """The length of the text that a column `..._length` is of; None where the files have no such text."""
    # The text may be made from another column itself: `response_length` from the first answer in `conversations`.
    text = source_of(name.removesuffix("_length"), schema)
    return replace(text, then=_length) if text is not None and _is_text(text.kind(schema)) else None


def _filled(
    source: Source, name: str, schema: pa.Schema, written: Mapping[str, str], tally: Tally | None
) -> Source:
    """The text of a column, and where it is looked for in rows that have none there: datasets are put together."""
    if not _is_text(schema.field(source.column).type):
        return source

    def texts(candidate: str) -> bool:
        column = written.get(candidate)
        return column not in {None, source.column} and _is_text(schema.field(column).type)

    others = [candidate for candidate in (name, *OTHER_NAMES[name]) if texts(candidate)]
    beside = None
    if name == "instruction" and source.column.strip().lower() == "instruction" and texts("input"):
        beside = written["input"]
    if name == "response" and not {"instruction", "question"} <= {*written}:
        # An `answer` beside a `response` may be the key to an exercise, and no response at all.
        others = [candidate for candidate in others if candidate != "answer"]
    plain = tuple(Source(written[candidate]) for candidate in others)
    # Where texts and conversations are both there, a conversation is the whole of what was said.
    known = {one.column for one in (source, *plain)}
    talks = tuple(one for one in _conversations(name, schema, written, tally) if one.column not in known)
    return replace(source, beside=beside, instead=(*talks, *plain))


def _conversations(
    name: str, schema: pa.Schema, written: Mapping[str, str], tally: Tally | None
) -> tuple[Source, ...]:
    """The columns that hold the first question, or the answer to it, in conversations."""
    make = _of_exchange(name, Counter() if tally is None else tally)
    columns = (written.get(candidate) for candidate in (*CONVERSATIONS, *_MESSAGES_OF[name]))
    return tuple(
        Source(column, make)
        for column in dict.fromkeys(columns)
        if column is not None and _may_be_conversation(schema.field(column).type)
    )


def _only(rows: Any, of: Callable[[str], Any]) -> Callable[[str], Any]:
    """`of` for some of its rows."""
    return lambda name: of(name).filter(rows)


def _with_input(texts: Any, inputs: Any) -> Any:
    """Each text, and on the next line what it is to be done with, as Alpaca's two fields are read."""
    trimmed, inputs = (pc.utf8_trim_whitespace(_plain_text(values)) for values in (texts, inputs))
    both = pc.and_(pc.invert(_blank(trimmed)), pc.invert(_blank(inputs)))
    joined = pc.binary_join_element_wise(trimmed, inputs, pa.scalar("\n", pa.large_string()))
    return pc.if_else(both, joined, _plain_text(texts)).cast(_text_type(texts.type))


def _blank(values: Any) -> Any:
    """Whether each text is null, or has nothing but white space."""
    return pc.fill_null(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(_plain_text(values))), 0), True)


def _plain_text(values: Any) -> Any:
    # `utf8_trim_whitespace` and its like take no dictionary and no view.
    return values.cast(pa.large_string())


def _text_type(kind: pa.DataType) -> pa.DataType:
    """A type with room for any text."""
    return kind if pa.types.is_string(kind) or pa.types.is_large_string(kind) else pa.string()


def _length(texts: Any) -> Any:
    """The lengths of texts in characters."""
    # Large strings have room for a batch of any size.
    return pc.utf8_length(_plain_text(texts)).cast(pa.int64())


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


def label_texts(labels: tuple[str, ...]) -> Make:
    """Makes the names of labels that are stored as numbers; null for a number that has none, such as -1."""

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
