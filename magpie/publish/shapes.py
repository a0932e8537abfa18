"""The formats: which columns make each of them, and which of the dataset's own columns stand beside those."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import pyarrow as pa

from magpie.data.conversations import COLUMNS, as_messages, conversation_column
from magpie.data.dataset import PAIR
from magpie.data.magpie_form import PUBLISHED
from magpie.data.messages import SYSTEM, assistant, user
from magpie.data.sources import label_texts
from magpie.errors import RunError
from magpie.publish.instances import prompt_completion, task_and_input
from magpie.publish.published_form import DERIVED, published_columns
from magpie.publish.trainer_shapes import Shape, as_text, of_trainer, one_turn, talks, unanswered
from magpie.runs.opened import OpenDataset

Format = Literal[
    "messages", "sharegpt", "alpaca", "preference", "magpie", "openai", "trl-sft", "trl-preference", "llama-factory",
    "axolotl", "csv", "prompt-completion", "text",
]  # fmt: skip
__all__ = ["ALIASES", "FORMATS", "WHOLE_ROWS", "Format", "Shape", "available", "shape_of", "shaped"]

FORMATS: tuple[Format, ...] = get_args(Format)
ALIASES: dict[Format, Format] = {"trl-sft": "messages", "trl-preference": "preference"}
"""What TRL's trainers take is what `messages` and `preference` are."""

_HISTORY = pa.list_(pa.list_(pa.string()))


WHOLE_ROWS: frozenset[Format] = frozenset({"preference", "magpie"})
"""The formats that have a row for each of the dataset's, also where that is a task with several instances."""


def shape_of(
    format: Format,
    dataset: OpenDataset,
    render: Callable[[Any], str] | None = None,
    *,
    forms: int | None = None,
) -> Shape:
    """The format for this dataset. Raises RunError where the dataset lacks what it is made of.

    `render` writes a conversation as text, for the format `text`. `forms` is the seed by which tasks got their form.
    """
    format = ALIASES.get(format, format)
    if format == "preference":
        return _preference(dataset)
    column = conversation_column(dataset.schema)

    def messages(rows: pa.Table) -> Any:
        return as_messages(rows, column)

    def text() -> Shape:
        assert render is not None
        return as_text(messages, render)

    def talking() -> Shape:
        shape = talks(messages, sharegpt=format == "sharegpt")
        return replace(shape, hides=frozenset({*COLUMNS, *PAIR}))

    shapes: dict[Format, Callable[[], Shape]] = {
        "messages": talking,
        "sharegpt": talking,
        "alpaca": lambda: _alpaca(dataset, messages),
        "magpie": lambda: _published(messages),
        "csv": lambda: one_turn(messages, task_and_input),
        "prompt-completion": lambda: prompt_completion(messages, forms),
        "text": text,
    }
    of_others = partial(of_trainer, format, messages, pairs=set(PAIR) <= set(dataset.schema.names))
    return shapes.get(format, of_others)()


def _published(messages: Callable[[pa.Table], Any]) -> Shape:
    return Shape(
        tuple(column.name for column in PUBLISHED),
        lambda rows: published_columns(rows, messages(rows)),
        alone=True,
        own_first=True,
        derived=DERIVED,
    )


def shaped(dataset: OpenDataset, shape: Shape, columns: Collection[str] | None) -> Iterator[pa.Table]:
    """The dataset in a format, some rows at a time; at least one table, so that the columns are known.

    `columns` are the names of those to write beside the format's own; None for all that stand well there.
    """
    asked = set(columns or ())
    # Beside columns of its own form there is no note that would say what the numbers of labels mean.
    labels = dataset.labels if shape.alone else {}
    for part in dataset.tables({*asked, *shape.derived, *_in_dataset(dataset)}):
        rows = _with_names(part, labels)
        own = shape.make(rows)
        if columns is not None:
            names = [name for name in columns if name not in own]
        else:
            hidden = {*own, *shape.hides, *shape.derived}
            names = [] if shape.alone else [name for name in rows.column_names if name not in hidden]
        before = [] if shape.own_first or "id" not in names else ["id"]
        others = {name: rows[name] for name in [*before, *names]}
        table = {**{name: others[name] for name in before}, **own, **others}
        yield pa.table(table)


def _with_names(rows: pa.Table, labels: Mapping[str, tuple[str, ...]]) -> pa.Table:
    for column in labels.keys() & {*rows.column_names}:
        if pa.types.is_integer(rows[column].type):
            names = label_texts(labels[column])(rows[column])
            rows = rows.set_column(rows.schema.get_field_index(column), column, names)
    return rows


def available(dataset: OpenDataset, shape: Shape) -> list[str]:
    """The names that `--columns` may have."""
    return list(
        dict.fromkeys([*dataset.schema.names, *(field.name for field in dataset.derived), *shape.own])
    )


def _in_dataset(dataset: OpenDataset) -> list[str]:
    """Derived columns that a dataset of today would have in its files, and one of an earlier version lacks."""
    return [] if dataset.provenance is None else dataset.provenance.derived_in_dataset


def _preference(dataset: OpenDataset) -> Shape:
    if not set(PAIR) <= set(dataset.schema.names):
        raise RunError(
            f"{dataset.place} has no pairs, for its recipe has no `prefer`; "
            "use another --format, or build with a recipe such as air-dpo"
        )
    return Shape(PAIR, lambda rows: {name: rows[name] for name in PAIR}, frozenset(COLUMNS))


def _alpaca(dataset: OpenDataset, messages: Callable[[pa.Table], Any]) -> Shape:
    with_history, with_system = _turns_of(dataset, messages)
    own = (
        "instruction", "input", "output", *(["history"] if with_history else []), *(["system"] if with_system else []),
    )  # fmt: skip

    def make(rows: pa.Table) -> dict[str, Any]:
        systems, turns = [], []
        for conversation in messages(rows).to_pylist():
            # Rows that do not fit are passed over later: see `unfit`.
            fits = unanswered(conversation or [], {}) is None
            talk = conversation if fits else [user(""), assistant("")]
            has_system = talk[0]["role"] == "system"
            systems.append(talk[0]["content"] if has_system else None)
            texts = [turn["content"] for turn in talk[has_system:]]
            turns.append([list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)])
        questions = [pairs[-1][0] for pairs in turns]
        # Of later turns the last question is the instruction, and no task with its input.
        instruction, input = task_and_input(rows, questions, apart=not with_history)
        columns = {
            "instruction": instruction,
            "input": input,
            "output": pa.array([pairs[-1][1] for pairs in turns], pa.string()),
            "history": pa.array([pairs[:-1] for pairs in turns], _HISTORY),
            "system": pa.array(systems, pa.string()),
        }
        return {name: columns[name] for name in own}

    hides = frozenset({*COLUMNS, *PAIR, "response"})
    return Shape(own, make, hides, own_first=True, unfit=unanswered)


def _turns_of(dataset: OpenDataset, messages: Callable[[pa.Table], Any]) -> tuple[bool, bool]:
    """Whether rows have earlier turns, and whether they have system messages."""
    # By the recipe and not by the rows, where there is one: the columns of a dataset do not depend on what was kept.
    if dataset.provenance is not None:
        names = {name for step in dataset.provenance.steps for name in step.adds.names}
        return "later_turns" in names, SYSTEM in names
    with_history = with_system = False
    for rows in dataset.tables():
        for conversation in messages(rows).to_pylist():
            system = bool(conversation) and conversation[0]["role"] == "system"
            with_system |= system
            with_history |= len(conversation or ()) - system > 2
    return with_history, with_system
