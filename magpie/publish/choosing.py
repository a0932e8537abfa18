"""Which rows of a dataset are exported, and why the others are not: a look at every row before any is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.chat.loading import load_tokenizer
from magpie.data.conversations import as_messages, conversation_column
from magpie.data.dataset import PAIR
from magpie.data.left_out import LeftOut, Reasons
from magpie.errors import ChatFormatError, RunError
from magpie.neighbors.vectors import Positions, ProgressCallback
from magpie.publish.shapes import Shape
from magpie.recipe import Filter, Model, Rule
from magpie.runs.opened import OpenDataset
from magpie.steps.base import REJECTED
from magpie.steps.filter import check
from magpie.steps.filter.sql import RowValues, columns_read

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What rows are asked for: `where` is a rule in SQL, and `max_tokens` are those of the rendered conversation."""

    where: str | None = None
    max_tokens: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The positions of the rows that go out, in the order of the dataset, of `rows_in`; and why the others do not."""

    positions: Positions
    rows_in: int
    left_out: tuple[LeftOut, ...]


class Tokens:
    """A tokenizer with its chat template: what a conversation is as text, and how many tokens it has."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tokenizer, _, _ = load_tokenizer(Model(model=name))

    def text(self, messages: Messages) -> str:
        """The conversation as the template writes it. Raises ChatFormatError."""
        return self._tokenizer.render(messages, add_generation_prompt=False)

    def count(self, messages: Messages) -> int:
        """How many tokens that text has."""
        return len(self._tokenizer.encode(self.text(messages)))


def choose(
    dataset: OpenDataset,
    shape: Shape,
    wanted: Wanted,
    tokens: Tokens | None,
    on_progress: ProgressCallback,
) -> Chosen:
    """Look at every row. Raises FilterError for a rule that cannot be evaluated, RunError where no row fits."""
    read = frozenset() if wanted.where is None else _checked(dataset, wanted.where)
    derived = [field.name for field in dataset.derived if field.name.lower() in read]
    needs_talk = shape.unfit is not None or wanted.max_tokens is not None
    column = conversation_column(dataset.schema) if needs_talk else None
    reasons, kept, at = Reasons(), list[Positions](), 0
    unfit, is_pair = 0, {*PAIR[1:]} <= set(shape.own)
    for table in dataset.tables(derived):
        live = np.ones(table.num_rows, np.bool_)
        if wanted.where is not None and table.num_rows:
            passes = _passes(table, wanted.where, read)
            _count(reasons, table, live & ~passes, f"--where {wanted.where} does not hold", at)
            live &= passes
        if needs_talk:
            talks = as_messages(table, column).to_pylist()
            for number in np.flatnonzero(live).tolist():
                pair = _pair(table, number) if is_pair else {}
                why = None if shape.unfit is None else shape.unfit(talks[number] or [], pair)
                why = why or _too_long(talks[number] or [], pair, wanted, tokens)
                if why is not None:
                    live[number] = False
                    unfit += 1
                    _count(reasons, table, np.arange(len(live)) == number, why, at)
        kept.append(at + np.flatnonzero(live))
        at += table.num_rows
        on_progress("choosing rows", at, 0)
    positions = np.concatenate(kept) if kept else np.array([], np.int64)
    if unfit and not len(positions):
        why = "; ".join(one.reason for one in reasons.result())
        raise RunError(
            f"{dataset.place} has no row that can be exported so: {why}; use --format messages or sharegpt, or other "
            "options"
        )
    return Chosen(positions, at, reasons.result())


def limited(order: Positions, chosen: Chosen, limit: int | None) -> tuple[Positions, tuple[LeftOut, ...]]:
    """The first `limit` rows of an order, and all reasons with that for the others."""
    if limit is None or len(order) <= limit:
        return order, chosen.left_out
    beyond = LeftOut(f"beyond --limit {limit:,}", len(order) - limit, ())
    return order[:limit], (*chosen.left_out, beyond)


def _pair(table: pa.Table, number: int) -> dict[str, Any]:
    return {name: table[name][number].as_py() for name in PAIR}


def _too_long(talk: Messages, pair: Mapping[str, Any], wanted: Wanted, tokens: Tokens | None) -> str | None:
    """Why a conversation has more tokens than are wanted, or none that can be counted; None where it fits."""
    if wanted.max_tokens is None or tokens is None:
        return None
    # Of a pair both conversations must fit.
    sides = [[*pair["prompt"], *pair[side]] for side in PAIR[1:]] if pair and all(pair.values()) else [talk]
    try:
        if max(tokens.count(side) for side in sides) > wanted.max_tokens:
            return f"more than {wanted.max_tokens:,} tokens of {tokens.name}"
    except ChatFormatError:
        return f"the chat template of {tokens.name} refuses the conversation"
    return None


def _count(reasons: Reasons, table: pa.Table, out: Any, reason: str, first: int) -> None:
    where = np.flatnonzero(out)
    name = next((name for name in ("id", "uuid", "conversation_id") if name in table.column_names), None)
    examples = [
        str(table[name][int(at)].as_py()) if name is not None else f"row {first + at + 1:,}"
        for at in where[:5]
    ]
    reasons.count(reason, len(where), examples)


def _checked(dataset: OpenDataset, where: str) -> frozenset[str]:
    """The columns that a rule reads. Raises FilterError where the dataset lacks one, or it is no condition."""
    fields = {field.name.lower(): field.type for field in (*dataset.schema, *dataset.derived)}
    # To a filter `rejected` says which rows are out, and here all are in.
    schema = pa.schema([(name, kind) for name, kind in fields.items() if name != REJECTED.name])
    rule = Rule(name="where", where=where)
    check(Filter(name="where", rules=(rule,)), schema, of="the dataset")
    return columns_read(where)


def _passes(table: pa.Table, where: str, read: frozenset[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    columns = {name.lower(): table[name] for name in table.column_names if name.lower() in read}
    rows = pa.table(columns) if columns else pa.table({"index": pa.array(np.arange(table.num_rows))})
    values = RowValues(rows, read).values(where)
    passes: np.ndarray[Any, np.dtype[np.bool_]] = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return passes
