"""What a comparison reads of a set: one pass over its rows, and what is known of how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.rows import talks_of
from magpie.figures.estimates import Values
from magpie.figures.pace import planned_by
from magpie.figures.run_log import seconds_at_work
from magpie.figures.status import status
from magpie.neighbors.vectors import Positions
from magpie.runs.opened import OpenDataset, open_dataset
from magpie.runs.run import Run, is_run
from magpie.storage import open_storage

VALUES = ("task_category", "difficulty", "input_quality", "language")
"""Columns whose values are counted."""
NUMBERS = ("instruct_reward", "reward_difference", "chosen_reward", "response_tokens")
"""Columns whose mean is compared."""
VALID = "valid"
TASK = "task"
_FINISH = ("response_finish_reason", "finish_reason")
_CUT = ("length", "error")
_SECONDS_AN_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a set without noise; None where it is not known.

    `made` are the rows that its run asked for, `tokens` those that models wrote for it, `hours` how long its builds
    were at work, and `cost` in dollars what so many `gpus`, or the machine without one, cost at the price of an hour.
    """

    name: str
    place: str
    rows: int
    made: int | None = None
    tokens: int | None = None
    hours: float | None = None
    gpus: int | None = None
    cost: float | None = None


@dataclass(slots=True)
class SetRows:
    """The rows of a set: instructions, and by row numbers (NaN where there is none) and values (None likewise)."""

    facts: Facts
    dataset: OpenDataset
    run: Run | None
    instructions: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    """The instructions without their inputs, where a set has them apart."""
    numbers: dict[str, Values] = field(default_factory=dict)
    values: dict[str, list[str | None]] = field(default_factory=dict)

    def embeddings(self, at: Positions) -> Iterator[np.ndarray[Any, Any]]:
        """The vectors that the run itself has of the rows at these rising positions, shard by shard."""
        assert self.run is not None
        first = 0
        for shard in range(self.run.shards):
            rows = self.run.rows(shard, ["embedding"], check=False)
            kept = rows.filter(pc.is_null(rows["rejected"]))["embedding"].combine_chunks()
            here = at[(at >= first) & (at < first + len(kept))] - first
            first += len(kept)
            if len(here):
                chosen = kept.take(pa.array(here))
                yield np.asarray(chosen.flatten()).reshape(len(here), -1)


def read_set(source: Run | str | Any, *, price: float | None = None) -> SetRows:
    """Read a run that is finished, the folder of a dataset, or files of rows. Raises RunError, DamagedShardError."""
    run = source if isinstance(source, Run) else Run.open(source) if is_run(open_storage(source)) else None
    dataset = open_dataset(source if run is None else run)
    rows = SetRows(Facts("", "", 0), dataset, run)
    numbers: dict[str, list[Values]] = {}
    tokens = None
    for table in dataset.tables():
        _read_table(table, dataset, rows, numbers)
        for name in (name for name in table.column_names if name.endswith("_tokens")):
            if pa.types.is_integer(table.schema.field(name).type):
                tokens = (tokens or 0) + (pc.sum(table[name]).as_py() or 0)
    rows.numbers = {name: np.concatenate(parts) for name, parts in numbers.items()}
    rows.facts = _facts(rows, tokens, price)
    return rows


def _facts(rows: SetRows, tokens: int | None, price: float | None) -> Facts:
    count, run = len(rows.instructions), rows.run
    if run is None:
        return Facts(rows.dataset.name, str(rows.dataset.place), count, tokens=tokens)
    written = [step.tokens for step in status(run).steps if step.tokens is not None]
    seconds = seconds_at_work(run)
    hours = None if seconds is None else seconds / _SECONDS_AN_HOUR
    gpus, _ = planned_by(run)
    cost = None if hours is None or price is None else hours * (gpus or 1) * price
    return Facts(
        rows.dataset.name,
        str(run.storage.location),
        count,
        run.recipe.rows,
        sum(written) or None,
        hours,
        gpus,
        cost,
    )


def _read_table(
    table: pa.Table, dataset: OpenDataset, rows: SetRows, numbers: dict[str, list[Values]]
) -> None:
    conversations = talks_of(table).to_pylist()
    read = [_of_conversation(turns or []) for turns in conversations]
    rows.instructions += [question for question, *_ in read]
    apart = table[TASK].to_pylist() if TASK in table.column_names else [None] * len(read)
    rows.tasks += [
        task if isinstance(task, str) and task else question
        for task, (question, *_) in zip(apart, read, strict=True)
    ]
    finish = next((name for name in _FINISH if name in table.column_names), None)
    ended = [None] * len(read) if finish is None else table[finish].to_pylist()
    columns = {
        "instruction characters": [len(question) for question, *_ in read],
        "response characters": [answer for _, answer, *_ in read],
        "turns": [turns for *_, turns, _ in read],
        VALID: [whole and end not in _CUT for (*_, whole), end in zip(read, ended, strict=True)],
    }
    for name, values in columns.items():
        numbers.setdefault(name, []).append(np.asarray(values, np.float64))
    for name in NUMBERS:
        kind = table.schema.field(name).type if name in table.column_names else pa.null()
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        held = pc.cast(table[name], pa.float64()).to_pylist() if is_number else [None] * len(read)
        numbers.setdefault(name, []).append(np.array(held, np.float64))
    for name in VALUES:
        held = table[name].to_pylist() if name in table.column_names else [None] * len(read)
        rows.values.setdefault(name, []).extend(_named(held, dataset.labels.get(name)))


def _named(held: list[Any], labels: Mapping[int, str] | tuple[str, ...] | None) -> list[str | None]:
    """The values as texts, with the names of labels where the set holds their numbers."""
    if labels:
        held = [labels[each] if isinstance(each, int) and 0 <= each < len(labels) else None for each in held]
    return [None if each is None or each == "" else str(each) for each in held]


def _of_conversation(turns: list[dict[str, str]]) -> tuple[str, float, int, bool]:
    """The first instruction, the characters of the first response (NaN: there is none), the turns, whether it is whole.

    Whole are instructions and answers by turns, an answer last, none of them empty.
    """
    talk = [turn for turn in turns if turn["role"] in {"user", "assistant"}]
    roles = [turn["role"] for turn in talk]
    question = next((turn["content"] or "" for turn in talk if turn["role"] == "user"), "")
    answer = next((float(len(turn["content"] or "")) for turn in talk if turn["role"] == "assistant"), np.nan)
    whole = (
        bool(talk)
        and roles == ["user", "assistant"] * (len(talk) // 2)
        and all((turn["content"] or "").strip() for turn in talk)
    )
    return question, answer, roles.count("user"), whole
