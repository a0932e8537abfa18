"""The rows that a report is about: of a run every row, kept and rejected; of a dataset the rows it holds.

Columns that count are held for every row. Texts are looked at as they pass, and read again for the rows that are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.published import Published
from magpie.errors import RecipeError, RunError
from magpie.recipe import Recipe
from magpie.runs.provenance import Provenance
from magpie.runs.run import Run, RunStep, is_run
from magpie.steps.base import REJECTED, Step
from magpie.storage import open_storage
from magpie.text import words

SEED = 42
"""What all samples of a report are drawn with."""

OPENING_WORDS = 6
INSTRUCTION, RESPONSE, VECTOR = "instruction", "response", "embedding"
TASK = "task"
"""The instruction without its input, where rows have them apart."""
_OPENING_LETTERS = 300  # six words of any language are in these
_PII = "_pii"  # how the columns that name kinds of personal data end

TAGS = (
    "language", "task_category", "difficulty", "input_quality", "llama_guard", "steer_id", "steer_language",
    "instruct_finish_reason", "response_finish_reason", "extend_ended", "generator",
)  # fmt: skip
"""Columns whose values are counted, where the rows have them."""
FURTHER_TAGS = ("other_task_categories", "guard_category", "instance_order")
"""Columns that rows can be chosen by, too, as by those that begin with `steer_` or `second_`."""
NUMBERS = (
    "temperature", "top_p", "instruct_tokens", "response_tokens", "min_neighbor_distance", "repeat_count",
    "instruct_reward", "base_reward", "reward_difference", "turns", "known_distance",
)  # fmt: skip
TEXTS = (
    "messages", "conversations", "raw_instruction", INSTRUCTION, "reasoning", RESPONSE, "later_turns",
    "chosen_response", "rejected_response",
)  # fmt: skip

Positions = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Reader = Callable[[Sequence[str]], Iterator[pa.Table]]


@dataclass(frozen=True, slots=True)
class ReportRows:
    """What is known of every row, in order.

    `table` has `id`, `rejected` (null in rows that are in) and those of the tags, NUMBERS and the kinds of personal
    data that there are; `instruction_characters`, `response_characters` and `opening`, the first six words. `names` are
    the columns that can be read. `unfinished` says up to where the build of the run has come; None when it is finished.
    """

    name: str
    place: str
    table: pa.Table
    names: tuple[str, ...]
    read: Reader
    run: Run | None = None
    recipe: Recipe | None = None
    unfinished: str | None = None
    own_tags: tuple[str, ...] = ()
    """Columns of labels that the recipe's own questions fill: they are counted as TAGS are."""

    @property
    def kept(self) -> Mask:
        """Which rows are in."""
        return np.asarray(pc.is_null(self.table[REJECTED.name]).to_numpy(zero_copy_only=False), bool)

    def has(self, column: str) -> bool:
        """Whether any row has a value in this column of the table."""
        return column in self.table.column_names and self.table[column].null_count < self.table.num_rows

    def tags(self) -> list[str]:
        """The columns that rows can be chosen by: those of TAGS, and the further ones that have a value."""
        names = self.table.column_names
        first = [*TAGS, *self.own_tags]
        return [*first, *(name for name in names if name not in first and _is_tag(name) and self.has(name))]

    def pii_columns(self) -> list[str]:
        """The columns that name kinds of personal data."""
        return [name for name in self.table.column_names if _names_pii(name)]

    def sample(self, most: int, *, of: Mask | None = None) -> Positions:
        """The positions of at most so many rows, those that are in or those of the mask, drawn by SEED, in order."""
        at = np.flatnonzero(self.kept if of is None else of)
        if len(at) > most:
            at = np.sort(np.random.default_rng(SEED).choice(at, most, replace=False))
        return at

    def at(self, positions: Positions, columns: Sequence[str]) -> pa.Table:
        """Columns of the rows at these positions, which ascend: read again."""
        names = [name for name in columns if name in self.names]
        parts, first = [], 0
        for table in self.read(names):
            low, high = np.searchsorted(positions, [first, first + table.num_rows])
            if high > low:
                parts.append(table.select(names).take(pa.array(positions[low:high] - first)))
            first += table.num_rows
        return pa.concat_tables(parts) if parts else pa.table({name: pa.array([]) for name in names})


def report_rows(source: Run | str | Path, *, most: int | None = None) -> ReportRows:
    """The rows of a run, or of a dataset of any form; of a run with more than `most` only evenly spread shards.

    Raises RunError where there are none, and DamagedShardError.
    """
    if isinstance(source, Run) or is_run(open_storage(source)):
        return _of_run(source if isinstance(source, Run) else Run.open(source), most)
    try:
        dataset = Published(source)
    except RecipeError as error:
        raise RunError(f"{source} is not a run, and no dataset: {error}") from error
    known = Provenance.parse(dataset.about)
    names = tuple(name for name in dataset.schema.names if name != VECTOR)

    def read(columns: Sequence[str]) -> Iterator[pa.Table]:
        yield dataset.columns(list(columns))

    recipe = None if known is None else known.recipe
    name = dataset.name if recipe is None else recipe.name
    own = () if known is None else own_tags(known.steps)
    return ReportRows(
        name, str(source), _gathered(read, names, own), names, read, recipe=recipe, own_tags=own
    )


def rows_before(run: Run, before: RunStep, shards: int) -> ReportRows:
    """The rows of the first `shards` of a run, as they stand before a step, whatever else is unfinished."""
    return _of_shards(run, before, range(shards))


def _of_run(run: Run, most: int | None) -> ReportRows:
    before = run.first_unfinished
    if before is run.steps[0]:
        raise RunError(
            f"{run.storage.location} has no step that is done for every row; run the build again to go on"
        )
    wanted = run.shards if most is None else max(1, most // run.recipe.shard_rows)
    return _of_shards(run, before, range(0, run.shards, -(-run.shards // wanted)))


def _of_shards(run: Run, before: RunStep | None, shards: range) -> ReportRows:
    steps = run.steps if before is None else run.steps[: before.number - 1]
    names = tuple(dict.fromkeys(["id", *(name for step in steps for name in step.step.adds.names)]))

    def read(columns: Sequence[str]) -> Iterator[pa.Table]:
        return map(partial(run.rows, columns=columns, before=before, check=False), shards)

    own = own_tags([run_step.step for run_step in steps])
    table = _gathered(read, names, own)
    unfinished = None if before is None else before.name
    return ReportRows(
        run.recipe.name, run.storage.location, table, names, read, run, run.recipe, unfinished, own
    )


def own_tags(steps: Sequence[Step]) -> tuple[str, ...]:
    """The columns of labels that are none of the published ones; a second judge's are compared, and not counted."""
    labels = [label for step in steps for label in step.labels]
    return tuple(
        label.column for label in labels if label.column == label.question and label.column not in TAGS
    )


def _gathered(read: Reader, names: tuple[str, ...], own_tags: tuple[str, ...] = ()) -> pa.Table:
    texts = [name for name in (INSTRUCTION, RESPONSE) if name in names]
    held = [
        name for name in names if _is_tag(name) or name in own_tags or name in NUMBERS or _names_pii(name)
    ]
    parts = []
    for table in read(["id", *held, *texts]):
        rows = {"id": _plain(table["id"], "id"), REJECTED.name: _plain(table[REJECTED.name], REJECTED.name)}
        rows |= {name: _plain(table[name], name) for name in held if name in table.column_names}
        for name in texts:
            rows[f"{name}_characters"] = pc.utf8_length(_plain(table[name], name))
        if INSTRUCTION in texts:
            opened = map(opening_of, _plain(table[INSTRUCTION], INSTRUCTION).to_pylist())
            rows["opening"] = pa.array(opened, pa.string())
        parts.append(pa.table(rows))
    return pa.concat_tables(parts, promote_options="permissive").combine_chunks()


def opening_of(text: str | None) -> str | None:
    """The first six words of an instruction, folded; None for one without words."""
    return None if text is None else " ".join(words(text[:_OPENING_LETTERS])[:OPENING_WORDS]) or None


def _is_tag(name: str) -> bool:
    """Whether rows can be chosen by the column: it has one of few values, not a text of its own."""
    return (
        name in TAGS
        or name in FURTHER_TAGS
        or name.startswith("steer_")
        or (name.startswith("second_") and name.removeprefix("second_") in (*TAGS, *FURTHER_TAGS))
    )


def _names_pii(name: str) -> bool:
    return f"_{name}".endswith(_PII)


def _plain(column: Any, name: str) -> Any:
    """The column in the one type that its figures are made from; null where a dataset has something else there."""
    is_list = _names_pii(name) or name.endswith("other_task_categories")
    wanted = pa.float64() if name in NUMBERS else pa.list_(pa.string()) if is_list else pa.string()
    try:
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.nulls(len(column), wanted)
