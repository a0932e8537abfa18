"""Columns that follow from a row's conversation and its other columns, made where a dataset has not got them.

The published sets have some of these in their files. A run's dataset has in its files what its steps made, so that they
stay as they are; what follows from that is made when it is asked for: `magpie export --columns uuid,license`. Datasets
that are imported or merged have the texts, their lengths and the licences in their files.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.conversations import as_messages, conversation_column
from magpie.errors import RunError
from magpie.models.licences import licence_of
from magpie.steps.base import inner

_LATER = re.compile(r"(instruction|response)_([2-9]|[1-9]\d)")
_ROLES = {"instruction": "user", "response": "assistant"}

FIELDS = (
    inner("uuid", pa.string(), "The row's name, as `id`.", published="uuid"),
    inner("instruction", pa.string(), "The user's first message.", published="instruction"),
    inner("response", pa.string(), "The assistant's first answer.", published="response"),
    inner("instruction_2", pa.string(), "The user's second message; so on with _3, _4.", published="instruction_2"),
    inner("response_2", pa.string(), "The assistant's second answer; so on with _3, _4.", published="response_2"),
    inner("instruction_length", pa.int32(), "Characters of the instruction.", published="instruction_length"),
    inner("response_length", pa.int32(), "Characters of the response.", published="response_length"),
    inner("turns", pa.int32(), "How many turns the conversation has, the first included."),
    inner("finish_reason", pa.string(), "How the response ended, as response_finish_reason."),
    inner("license", pa.string(), "The licence of the generator's outputs, by its key on the hub; null where unknown."),
)  # fmt: skip
_OF_TALK = {field.name for field in FIELDS} - {"uuid", "finish_reason", "license"}
_NEEDS = {"uuid": "id", "finish_reason": "response_finish_reason", "license": "generator"}


def is_later_turn(name: str) -> bool:
    """Whether this is the name of a later turn's column, such as response_3."""
    return _LATER.fullmatch(name) is not None


def plain_fields(schema: pa.Schema) -> list[pa.Field]:
    """The columns that a dataset with these columns lacks and that follow from them."""
    try:
        conversation_column(schema)
        talks = True
    except RunError:
        talks = False
    return [
        field
        for field in FIELDS
        if field.name not in schema.names
        and (talks if field.name in _OF_TALK else _NEEDS[field.name] in schema.names)
    ]


def plain_values(rows: pa.Table, names: Collection[str]) -> dict[str, Any]:
    """The columns of these names for some rows of a dataset, among them those of later turns."""
    wanted = [name for name in names if name in _OF_TALK or is_later_turn(name)]
    columns: dict[str, Any] = {}
    if wanted:
        talks = as_messages(rows, conversation_column(rows.schema)).to_pylist()
        columns = {name: _of_talk(name, talks, rows) for name in wanted}
    if "uuid" in names:
        columns["uuid"] = rows["id"].cast(pa.string())
    if "finish_reason" in names:
        columns["finish_reason"] = rows["response_finish_reason"]
    if "license" in names:
        columns["license"] = licences_of(rows["generator"])
    return columns


def licences_of(generators: Any) -> Any:
    """The licence of each model's outputs, by its key on the hub; null where it is not known."""
    models = generators.cast(pa.string()).combine_chunks().dictionary_encode()
    found = [licence_of(model) for model in models.dictionary.to_pylist()]
    keys = pa.array([None if licence is None else licence.key for licence in found], pa.string())
    return keys.take(models.indices)


def _of_talk(name: str, talks: list[Any], rows: pa.Table) -> Any:
    if name == "turns":
        counts = [sum(turn["role"] == "user" for turn in talk or ()) for talk in talks]
        return pa.array(counts, pa.int32())
    text = name.removesuffix("_length")
    if text in rows.column_names:
        values = rows[text].cast(pa.string())
    else:
        later = _LATER.fullmatch(text)
        side, number = (later[1], int(later[2])) if later else (text, 1)
        values = pa.array([_nth(talk, _ROLES[side], number) for talk in talks], pa.string())
    return values if text == name else pc.utf8_length(values).cast(pa.int32())


def _nth(talk: list[dict[str, str]] | None, role: str, number: int) -> str | None:
    texts = [turn["content"] for turn in talk or () if turn["role"] == role]
    return texts[number - 1] if len(texts) >= number else None
