"""The columns of a dataset that was made elsewhere: which hold what was said, and what the others are called here."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.dataset import PAIR
from magpie.data.foreign import CHOSEN, INSTRUCTIONS, REJECTED, RESPONSES
from magpie.data.magpie_form import PUBLISHED
from magpie.data.messages import MESSAGES
from magpie.data.sources import label_texts
from magpie.records.conversation import CONVERSATIONS, written_names
from magpie.records.schemas import label_names

# What the columns of the published sets are called here, those of their first generation too.
RENAMED = {
    "uuid": "id",
    "conversation_id": "id",
    # Not `min_similar_id`, which is the nearest row: published filters read this as the first of the rows alike.
    "min_similar_conversation_id": "min_similar_uuid",
    "quality_generator": "judge",
    "source_dataset": "source",
} | {
    column.name: column.made_from
    for column in PUBLISHED
    if column.is_column and column.made_from not in {"judge", "min_similar_id"}
}

_CONFIGS = {"temperature": pa.float32(), "top_p": pa.float32(), "input_generator": pa.string()}
"""Fields of `gen_input_configs` that are columns here."""

_MADE = ("id", "messages", *PAIR, "instruction", "response", "instruction_length", "response_length")
_ANSWERS = (*CHOSEN, *REJECTED)


class ForeignColumns:
    """The columns of files, and the dataset that is made of them. `given` are columns whose gaps are filled.

    `pairs` says whether the rows are pairs of preference. `said` are the columns, in lower case, that may hold what was
    said. `others` are kept: by the name here, the name in the files and the type. `unkept` are left out, since their
    names mean something else here.
    """

    def __init__(self, schema: pa.Schema, given: Collection[str]) -> None:
        self._file_schema = schema
        self._given = given
        self._labels = {
            column: names
            for column, names in label_names(schema).items()
            if column in schema.names and pa.types.is_integer(schema.field(column).type)
        }
        self.names = written_names(dict.fromkeys(schema.names))
        self.pairs = any(one in self.names for one in CHOSEN) and any(one in self.names for one in REJECTED)
        self.said = [name for name in self.names if name in self._columns_of_talk()]
        self.unkept: list[str] = []
        self.others = self._kept_columns()
        self.schema = self._schema()

    def configs_of(self, table: pa.Table) -> dict[str, Any]:
        """The fields of `gen_input_configs` as columns, where the files hold it as an object."""
        column = self.names.get("gen_input_configs")
        kind = None if column is None else self._file_schema.field(column).type
        if kind is None or not pa.types.is_struct(kind):
            return {}
        there = {kind.field(at).name for at in range(kind.num_fields)}
        return {
            "generator" if name == "input_generator" else name: pc.struct_field(table[column], name).cast(
                wanted
            )
            for name, wanted in _CONFIGS.items()
            if name in there and _casts(kind.field(name).type, wanted)
        }

    def kept(self, table: pa.Table, name: str) -> Any:
        """One of the other columns, by its name here: labels by their names, for no note says what numbers mean."""
        column, kind = self.others[name]
        labels = self._labels.get(column)
        return (table[column] if labels is None else label_texts(labels)(table[column])).cast(kind)

    def _columns_of_talk(self) -> set[str]:
        """The columns, in lower case, that the conversation is made of or may be."""
        return {
            *self._talk_columns(),
            *self._text_columns(),
            "input",
            "history",
            "system",
            "text",
            *PAIR,
            *_ANSWERS,
        }

    def _talk_columns(self) -> set[str]:
        return {name for name in CONVERSATIONS if name in self.names and self._holds_talk(name)}

    def _text_columns(self) -> set[str]:
        firsts = (
            next((name for name in names if name in self.names), "") for names in (INSTRUCTIONS, RESPONSES)
        )
        return {*firsts} - {""}

    def _restated(self) -> set[str]:
        """The columns of which nothing is left to keep: what they hold is in the messages, or made of them."""
        restated = {"instruction", "response", "system"}
        if self.pairs:
            restated |= {*PAIR, *_ANSWERS}
        restated |= self._talk_columns()
        if not self._talk_columns():
            return restated | {*self._text_columns(), "input", "history"}
        # The first published sets call the two texts so; elsewhere these may say something else.
        return restated | ({"input", "output"} if "instruction" not in self.names else set())

    def _holds_talk(self, name: str) -> bool:
        kind = self._file_schema.field(self.names[name]).type
        return bool(pa.types.is_nested(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))

    def _kept_columns(self) -> dict[str, tuple[str, pa.DataType]]:
        """The other columns: the name here, the name in the files, and the type."""
        kept: dict[str, tuple[str, pa.DataType]] = {}
        restated = self._restated()
        lengths = {"instruction_length", "response_length", "input_length", "output_length"}
        for lower, column in self.names.items():
            if lower in restated or lower in lengths or lower in {"id", "conversation_id"}:
                continue
            name = RENAMED.get(lower, lower if lower in RENAMED.values() else column)
            if name in _MADE or (name != lower and name in self.names):
                if lower != "uuid":
                    self.unkept.append(column)
                continue
            kind = pa.string() if column in self._labels else self._file_schema.field(column).type
            kept[name] = (column, kind.value_type if pa.types.is_dictionary(kind) else kind)
        return kept

    def _schema(self) -> pa.Schema:
        """The columns that are written."""
        texts, length = pa.string(), pa.int32()
        made = [("id", texts), ("messages", MESSAGES)]
        made += [(name, MESSAGES) for name in PAIR] if self.pairs else []
        made += [("instruction", texts), ("response", texts)]
        made += [("instruction_length", length), ("response_length", length)]
        others = [(name, kind) for name, (_, kind) in self.others.items()]
        empty = self.configs_of(self._file_schema.empty_table())
        configs = [(name, values.type) for name, values in empty.items() if name not in self.others]
        given = [
            (name, texts) for name in self._given if name not in self.others and name not in dict(configs)
        ]
        return pa.schema([*made, *others, *configs, *given])


def _casts(kind: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_null(kind) or kind == wanted:
        return True
    if pa.types.is_string(wanted):
        return bool(pa.types.is_large_string(kind))
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
