"""Rows under the names and in the forms of the published Magpie datasets: see `data/magpie_form.py`."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.conversations import as_sharegpt
from magpie.data.magpie_form import CONVERSATIONS, GEN_INPUT_CONFIGS, PUBLISHED
from magpie.publish.writing import short_floats

DERIVED = ("generator_engine", "instruct_system_prompt")
"""Columns of ours that no file has and that are part of the form."""

# The fields of `gen_input_configs`, and the columns of ours that they are.
_CONFIGS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "input_generator": "generator",
    "seed": "instruct_seed",
    "engine": "generator_engine",
    "system_prompt": "instruct_system_prompt",
}


def published_columns(rows: pa.Table, messages: Any) -> dict[str, Any]:
    """Every column of the published sets for these rows; one that the dataset says nothing of is null.

    A dataset that has a column under its published name, such as one of the published sets, keeps it.
    """
    rows = short_floats(rows)
    conversations = as_sharegpt(messages)
    made = {
        "gen_input_configs": _configs(rows),
        "conversations": pa.array(conversations, CONVERSATIONS),
        "instruction": _first(conversations, "human"),
        "response": _first(conversations, "gpt"),
    }
    columns: dict[str, Any] = {}
    for column in PUBLISHED:
        if column.name == "conversations" or (column.name not in rows.column_names and column.name in made):
            columns[column.name] = made[column.name]
        elif column.name in rows.column_names:
            columns[column.name] = _cast(rows[column.name], column.kind)
        elif column.is_column and column.made_from in rows.column_names:
            columns[column.name] = _cast(rows[column.made_from], column.kind)
        else:
            columns[column.name] = pa.nulls(rows.num_rows, column.kind)
    for text in ("instruction", "response"):
        name, length = f"{text}_length", pc.utf8_length(columns[text]).cast(pa.int64())
        if name not in rows.column_names:
            columns[name] = length
        elif columns[name].type == length.type:  # some rows may lack it
            columns[name] = pc.coalesce(columns[name], length)
    return columns


def _configs(rows: pa.Table) -> Any:
    parts = []
    for field in GEN_INPUT_CONFIGS:
        name = _CONFIGS[field.name]
        there = name in rows.column_names and _fits(rows[name].type, field.type)
        values = _cast(rows[name], field.type) if there else pa.nulls(rows.num_rows, field.type)
        parts.append(values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values)
    return pa.StructArray.from_arrays(parts, fields=list(GEN_INPUT_CONFIGS))


def _cast(values: Any, kind: pa.DataType) -> Any:
    """In the published type where every value of the type can be; a foreign set's own type else."""
    # By the types and not by trying: all tables must come out alike, whatever their values.
    return values.cast(kind, safe=False) if _fits(values.type, kind) else values


def _fits(kind: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_null(kind) or kind == wanted:
        return True
    if pa.types.is_dictionary(kind):
        return _fits(kind.value_type, wanted)
    if pa.types.is_string(wanted):
        return bool(pa.types.is_large_string(kind))
    if pa.types.is_float64(wanted):
        return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
    if pa.types.is_integer(wanted):
        return bool(pa.types.is_integer(kind) and not pa.types.is_uint64(kind))
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(pa.types.is_list(wanted) and is_list and _fits(kind.value_type, wanted.value_type))


def _first(conversations: list[list[dict[str, str]] | None], speaker: str) -> Any:
    texts = (
        next((turn["value"] for turn in turns or () if turn["from"] == speaker), None)
        for turns in conversations
    )
    return pa.array(list(texts), pa.string())
