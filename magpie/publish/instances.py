"""Datasets of tasks with several instances, an instance a row: what is exported of them, as in the paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.messages import MESSAGES, assistant, user
from magpie.publish.trainer_shapes import Shape, one_turn_reason
from magpie.runs.opened import OpenDataset
from magpie.self_instruct.forms import drawn_form

_PARTS = ("task", "task_input")


def task_and_input(rows: pa.Table, messages: Sequence[str], *, apart: bool = True) -> tuple[Any, Any]:
    """The columns `instruction` and `input` of Alpaca's form: a task and its input where they are to be `apart`."""
    if apart and set(_PARTS) <= set(rows.column_names):
        task, input = (pc.fill_null(rows[name].cast(pa.string()), "") for name in _PARTS)
        return task, input
    return pa.array(messages, pa.string()), pa.array([""] * rows.num_rows, pa.string())


def prompt_completion(messages: Callable[[pa.Table], Any], forms: int | None) -> Shape:
    """`prompt` and `completion`: two texts that make one, as base models are trained on."""

    def make(rows: pa.Table) -> dict[str, Any]:
        talks = [talk or [] for talk in messages(rows).to_pylist()]
        prompts = [talk[0]["content"] if len(talk) > 1 else "" for talk in talks]
        inputs = rows["task_input"].to_pylist() if "task_input" in rows.column_names else [""] * len(talks)
        ids = rows["id"].to_pylist() if "id" in rows.column_names else list(map(str, range(len(talks))))
        betweens = [
            drawn_form(forms, row, has_input=bool(text)).between
            for row, text in zip(ids, inputs, strict=True)
        ]
        outputs = [talk[1]["content"] if len(talk) > 1 else "" for talk in talks]
        completions = [f"{between}{output}" for between, output in zip(betweens, outputs, strict=True)]
        return {"prompt": pa.array(prompts, pa.string()), "completion": pa.array(completions, pa.string())}

    return Shape(("prompt", "completion"), make, alone=True, own_first=True, unfit=one_turn_reason)


def has_instances(schema: pa.Schema) -> bool:
    """Whether rows are tasks with instances, and conversations of one turn."""
    if not {*_PARTS, "instances"} <= set(schema.names) or "later_turns" in schema.names:
        return False
    kind = schema.field("instances").type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    fields = kind.value_type if is_list else kind
    return pa.types.is_struct(fields) and {field.name for field in fields} >= {"input", "output"}


def by_instance(dataset: OpenDataset, forms: int | None) -> OpenDataset:
    """The dataset with a row for each instance, in one of several forms where `forms` is the seed that draws them.

    The first instance of a task keeps the row's id; the second is ID/2, and so on. A dataset without instances is
    given back as it is.
    """
    if not has_instances(dataset.schema):
        return dataset

    def read() -> Iterator[pa.Table]:
        for table in dataset.read():
            yield _unfolded(table, forms)

    def count() -> int:
        return sum(table.num_rows for table in read())

    schema = _unfolded(dataset.schema.empty_table(), forms).schema
    return replace(dataset, schema=schema, read=read, count=count)


def _unfolded(table: pa.Table, forms: int | None) -> pa.Table:
    each = [rows or [] for rows in table["instances"].to_pylist()]
    places = [place for place, rows in enumerate(each) for _ in rows]
    numbers = [number for rows in each for number in range(1, len(rows) + 1)]
    inputs = [one["input"] or "" for rows in each for one in rows]
    outputs = [one["output"] or "" for rows in each for one in rows]
    unfolded = table.take(pa.array(places, pa.int64())).drop_columns(["instances"])
    tasks = unfolded["task"].to_pylist()
    ids = unfolded["id"].to_pylist() if "id" in unfolded.column_names else [str(place) for place in places]
    ids = [row if number == 1 else f"{row}/{number}" for row, number in zip(ids, numbers, strict=True)]
    drawn = [drawn_form(forms, row, has_input=bool(text)) for row, text in zip(ids, inputs, strict=True)]
    prompts = [form.prompt(task, text) for form, task, text in zip(drawn, tasks, inputs, strict=True)]
    talks = [[user(prompt), assistant(output)] for prompt, output in zip(prompts, outputs, strict=True)]
    # All that is said of the first instance alone follows the instance that stands in the row now.
    anew: dict[str, Any] = {
        "id": pa.array(ids, pa.string()),
        "task_input": pa.array(inputs, pa.string()),
        "instruction": pa.array(prompts, pa.string()),
        "response": pa.array(outputs, pa.string()),
        "response_length": pa.array([len(output) for output in outputs], pa.int32()),
        "messages": pa.array(talks, MESSAGES),
    }
    for name, values in anew.items():
        if name in unfolded.column_names:
            unfolded = unfolded.set_column(unfolded.schema.get_field_index(name), name, values)
    return unfolded
