"""The final dataset: the rows that were kept, as `messages` and the columns that say what they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from magpie.errors import DamagedShardError
from magpie.runs.run import Run
from magpie.runs.store import Stamp, inspect_shard, storage_errors, write_shard
from magpie.steps.base import REJECTED

ROWS_PER_FILE = 50_000

_INNER = {
    "index",
    "raw_instruction",
    "embedding",
    "later_turns",
    "instruct_error",
    "tag_error",
    REJECTED.name,
}
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def write_dataset(run: Run, made_from: str) -> int:
    """Write `dataset/` from the rows that are still in; how many there are. Does nothing when it stands already.

    `made_from` is the combined seal of the last step's shards.
    """
    standing = _standing(run, made_from)
    if standing is not None:
        return standing
    return write_files(run.dataset_folder, kept_rows(run), run_name=run.recipe.name, made_from=made_from)


def kept_rows(run: Run, decide: Any = None) -> Iterator[pa.Table]:
    """The kept rows in dataset form, a shard at a time.

    `decide` (a table of `id` and `rejected` for the whole run) replaces the run's own filter.
    """
    columns = [name for name in run.plan.schema.names if name not in {"embedding", "raw_instruction"}]
    before = None if decide is None else next((s for s in run.plan.steps if s.name == "filter"), None)
    for shard in range(run.plan.shards):
        rows = run.rows(shard, columns, before=before)
        reasons = rows[REJECTED.name]
        if decide is not None:
            reasons = decide[REJECTED.name].slice(run.plan.shard_range(shard).start, rows.num_rows)
        yield _in_dataset_form(run, rows.filter(pc.is_null(reasons)))


def write_files(folder: Path, tables: Iterator[pa.Table], *, run_name: str, made_from: str) -> int:
    """Write tables as sealed Parquet files of up to 50,000 rows; how many rows. Files of an earlier write go.

    At least one file is written, so that an empty dataset has its columns.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    waiting: list[pa.Table] = []
    total, number = 0, 0

    def flush(count: int) -> None:
        nonlocal number, total
        whole = pa.concat_tables(waiting)
        stamp = Stamp("dataset", number, total, count, run_name, made_from)
        write_shard(folder / f"train-{number:05d}.parquet", whole.slice(0, count), stamp)
        waiting[:] = [whole.slice(count)]
        number, total = number + 1, total + count

    for table in tables:
        waiting.append(table)
        while sum(one.num_rows for one in waiting) > ROWS_PER_FILE:
            flush(ROWS_PER_FILE)
    flush(sum(one.num_rows for one in waiting))
    for path in folder.glob("*.parquet"):
        if path.name >= f"train-{number:05d}.parquet":
            path.unlink()
    return total


def _standing(run: Run, made_from: str) -> int | None:
    """How many rows the dataset on disk holds, when it is whole and made from the same shards."""
    total = 0
    for number, path in enumerate(run.dataset_files):
        try:
            stamp = inspect_shard(path).stamp
        except DamagedShardError:
            return None
        if stamp.made_from != made_from or stamp.shard != number or stamp.first != total:
            return None
        total += stamp.rows
        if stamp.rows < ROWS_PER_FILE:
            return total if number == len(run.dataset_files) - 1 else None
    return None


def _in_dataset_form(run: Run, rows: pa.Table) -> pa.Table:
    table = pa.table({"id": rows["id"], "messages": _messages(rows)})
    names = [name for name in run.plan.schema.names if name in rows.column_names]
    for name in names:
        if name not in _INNER and name != "id":
            table = table.append_column(name, rows[name])
    recipe = run.recipe
    roles = {"generator": recipe.instruct.model, "judge": recipe.tag.model if recipe.tag else None}
    for column, role in roles.items():
        if role is not None:
            value = pa.array([recipe.models[role].model] * rows.num_rows, pa.string())
            table = table.append_column(column, value)
    return table.combine_chunks()


def _messages(rows: pa.Table) -> pa.Array:
    """The conversation as `{role, content}` messages; without responses, the instruction alone."""
    count = rows.num_rows
    responses = rows["response"].to_pylist() if "response" in rows.column_names else [None] * count
    later = rows["later_turns"].to_pylist() if "later_turns" in rows.column_names else [None] * count
    conversations = []
    for instruction, response, more in zip(rows["instruction"].to_pylist(), responses, later, strict=True):
        messages = [{"role": "user", "content": instruction}]
        if response is not None:
            messages.append({"role": "assistant", "content": response})
        conversations.append([*messages, *(more or [])])
    return pa.array(conversations, type=_MESSAGES)
