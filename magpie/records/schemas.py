"""Columns of several files as those of one dataset: types are made one where no value changes, or both are named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from magpie.errors import RecipeError
from magpie.records.arrow_types import held_type, plain_type
from magpie.records.tables import is_index

FEATURES = b"huggingface"
"""The key under which `datasets` notes the features of a table, such as the names of labels."""


@dataclass(frozen=True, slots=True)
class NamedSchema:
    """The schema of a file. `open` says that a column which the file lacks is null in its rows, as in JSON."""

    name: str
    schema: pa.Schema
    open: bool = False


def one_schema(files: Sequence[NamedSchema]) -> pa.Schema:
    """The columns of all files, in the order of the first. Raises RecipeError, which names a column and both types.

    pandas' index is a column only where every file has it.
    """
    names = dict.fromkeys(name for file in files for name in file.schema.names)
    _refuse_repeated(files)
    fields = []
    for name in names:
        having = [file for file in files if name in file.schema.names]
        lacking = next(
            (file for file in files if name not in file.schema.names and not _is_empty(file)), None
        )
        if lacking is not None and is_index(name):
            continue
        if lacking is not None and not lacking.open and not having[0].open:
            raise RecipeError(
                f"{lacking.name} has other columns than {having[0].name}: it has no {name!r}; "
                "give the files of one dataset"
            )
        kind, of = held_type(name, having[0].schema.field(name).type), having[0]
        for file in having[1:]:
            other = held_type(name, file.schema.field(name).type)
            merged = merge(kind, other)
            if merged is None:
                raise RecipeError(
                    f"column {name!r} is {kind} in {of.name} and {other} in {file.name}; make it one type in all files"
                )
            kind = merged
        fields.append(pa.field(name, plain_type(kind)))
    return pa.schema(fields, metadata=_features(files))


def merge(kind: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """A type that holds the values of both; None where there is none."""
    if kind.equals(other):
        return kind
    kind, other = _plain(kind), _plain(other)
    texts = [pa.types.is_string(one) or pa.types.is_large_string(one) for one in (kind, other)]
    if texts[0] != texts[1] and not pa.types.is_null(kind) and not pa.types.is_null(other):
        return None  # Arrow would make bytes of a text and bytes
    schemas = [pa.schema([pa.field("x", one)]) for one in (kind, other)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without ways of storing it: no dictionaries and no views, at any depth."""
    kind = plain_type(kind)
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _plain(field.type)) for field in kind])
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain(kind.value_type))
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type))
    return kind


def _is_empty(file: NamedSchema) -> bool:
    return not file.schema.names


def _refuse_repeated(files: Sequence[NamedSchema]) -> None:
    for file in files:
        twice = next((name for name in file.schema.names if file.schema.names.count(name) > 1), None)
        if twice is not None:
            raise RecipeError(f"{file.name} has two columns {twice!r}; give each a name of its own")


def _features(files: Sequence[NamedSchema]) -> dict[bytes, bytes] | None:
    """What `datasets` noted, of the first file with that. Raises RecipeError where others give labels other names."""
    noted: bytes | None = None
    labels: dict[str, tuple[str, ...]] = {}
    first = ""
    for file in files:
        note = (file.schema.metadata or {}).get(FEATURES)
        if note is None:
            continue
        own = label_names(file.schema)
        for name, known in own.items():
            if name in labels and labels[name] != known:
                raise RecipeError(
                    f"the labels of column {name!r} have other names in {file.name} than in {first}; "
                    "give files whose labels are the same"
                )
        if noted is None:
            noted, labels, first = note, own, file.name
    return None if noted is None else {FEATURES: noted}


def label_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """The names of the labels, by column, of columns that `datasets` calls a ClassLabel."""
    note: Any = (schema.metadata or {}).get(FEATURES)
    try:
        features = {} if note is None else json.loads(note)["info"]["features"]
        return {
            name: tuple(map(str, feature["names"]))
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
