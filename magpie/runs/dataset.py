"""The final dataset: the rows that were kept, as `messages` and the columns that say what they are.

A run that makes preference pairs has them as `prompt`, `chosen` and `rejected`, each a list of messages, as TRL takes
them. The run's own `rejected`, why a row is out, is null in every kept row and stays behind.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from magpie.errors import DamagedShardError, RunError
from magpie.figures.summary import discard_report
from magpie.recipe import Prefer, Recipe, Respond
from magpie.runs.run import Run
from magpie.runs.shards import Stamp, inspect_shard, storage_errors, sync_folder, write_shard
from magpie.steps.base import REJECTED, is_inner

ROWS_PER_FILE = 50_000
_FILE = re.compile(r"train-\d{5}\.parquet|\..*\.tmp")

_SAID = ("later_turns", "chosen_response", "rejected_response")  # inner columns that the messages hold
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def write_dataset(run: Run, made_from: str) -> int:
    """Write `dataset/` from the rows that are still in; how many there are. Does nothing when it stands already.

    `made_from` is the lineage of the run: see `standing.py`.
    """
    kept = sum(int(run.rows(shard, [])[REJECTED.name].null_count) for shard in range(run.plan.shards))
    if not _stands(run.dataset_folder, made_from, kept):
        write_files(run.dataset_folder, kept_rows(run), kept, run_name=run.recipe.name, made_from=made_from)
    return kept


def discard_dataset(run: Run) -> None:
    """Take away a dataset that will be out of date, and the report: they are there exactly when the run is finished."""
    discard_report(run)
    _discard(run.dataset_folder)


def kept_rows(run: Run, decide: Any = None) -> Iterator[pa.Table]:
    """The kept rows in dataset form, a shard at a time.

    `decide` (a table of `id` and `rejected` for the whole run) replaces the run's own filter.
    """
    columns = [field.name for field in run.plan.schema if not _stays(field) or field.name in _SAID]
    before = None if decide is None else next((s for s in run.plan.steps if s.name == "filter"), None)
    for shard in range(run.plan.shards):
        rows = run.rows(shard, columns, before=before)
        reasons = rows[REJECTED.name]
        if decide is not None:
            reasons = decide[REJECTED.name].slice(run.plan.shard_range(shard).start, rows.num_rows)
        yield _in_dataset_form(run, rows.filter(pc.is_null(reasons)))


def write_files(
    folder: Path, tables: Iterator[pa.Table], total: int, *, run_name: str, made_from: str
) -> None:
    """Write tables of `total` rows as sealed Parquet files of up to 50,000 rows, all of them or none.

    They are written beside `folder`, which they then become. At least one file is written, so that an empty dataset has
    its columns. Raises RunError when `folder` holds anything but an earlier dataset.
    """
    _refuse_strangers(folder)
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    with storage_errors(folder):
        unfinished.mkdir(parents=True)
    try:
        for number, table in enumerate(_regrouped(tables)):
            first = number * ROWS_PER_FILE
            stamp = Stamp("dataset", number, first, table.num_rows, total, run_name, made_from)
            write_shard(unfinished / f"train-{number:05d}.parquet", table, stamp)
        _discard(folder)
        with storage_errors(folder):
            unfinished.replace(folder)
            sync_folder(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _regrouped(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of ROWS_PER_FILE, the last one of what is left; never none."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        while sum(one.num_rows for one in waiting) > ROWS_PER_FILE:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, ROWS_PER_FILE)
            waiting = [whole.slice(ROWS_PER_FILE)]
    yield pa.concat_tables(waiting)


def _refuse_strangers(folder: Path) -> None:
    """A dataset takes the place of an earlier one, and of nothing else."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if not _FILE.fullmatch(path.name):
                raise RunError(
                    f"{folder} holds other things ({path.name}); choose an empty folder with --out"
                )
    elif folder.exists():
        raise RunError(f"{folder} is a file; choose a folder with --out")


def _discard(folder: Path) -> None:
    if folder.is_dir():
        _refuse_strangers(folder)
        old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
        with storage_errors(folder):
            folder.rename(old)
            shutil.rmtree(old)


def _stands(folder: Path, made_from: str, total: int) -> bool:
    """Whether the folder holds the whole dataset of `total` rows made from `made_from`."""
    first = 0
    for number, path in enumerate(sorted(folder.glob("*.parquet"))):
        try:
            stamp = inspect_shard(path).stamp
        except DamagedShardError:
            return False
        if (stamp.made_from, stamp.shard, stamp.first, stamp.total) != (made_from, number, first, total):
            return False
        first += stamp.rows
    return folder.is_dir() and first == total


def _in_dataset_form(run: Run, rows: pa.Table) -> pa.Table:
    recipe = run.recipe
    messages = _messages(rows, with_reasoning=_thinks_aloud(recipe, recipe.respond or recipe.prefer))
    table = pa.table({"id": rows["id"], "messages": messages})
    if recipe.prefer is not None:
        pairs = _pairs(rows, with_reasoning=_thinks_aloud(recipe, recipe.prefer))
        for column, messages in pairs.items():
            table = table.append_column(column, messages)
    for field in run.plan.schema:
        if field.name in rows.column_names and not _stays(field) and field.name != "id":
            table = table.append_column(field.name, rows[field.name])
    roles = {
        "generator": recipe.instruct.model,
        "judge": recipe.tag.model if recipe.tag else None,
        "second_judge": recipe.tag.second_judge if recipe.tag else None,
        "reward_model": _reward_model(recipe),
        "guard_model": recipe.guard.model if recipe.guard else None,
    }
    for column, role in roles.items():
        if role is not None:
            value = pa.array([recipe.models[role].model] * rows.num_rows, pa.string())
            table = table.append_column(column, value)
    return table.combine_chunks()


def _reward_model(recipe: Recipe) -> str | None:
    """The role that scores; a recipe with two such models has their scores in columns of their own."""
    if recipe.reward is not None:
        return recipe.reward.model
    return None if recipe.prefer is None else recipe.prefer.reward


def _stays(field: pa.Field) -> bool:
    """Whether a column stays in the run: how a row came about, and why others are out."""
    return is_inner(field) or field.name in {"index", REJECTED.name}


def _thinks_aloud(recipe: Recipe, answering: Respond | Prefer | None) -> bool:
    """Whether what the model that answers reasons is in its messages."""
    return answering is not None and recipe.models[answering.model].thinking == "keep"


def _messages(rows: pa.Table, *, with_reasoning: bool) -> pa.Array:
    """The conversation as `{role, content}` messages.

    Without responses it is the instruction and the chosen one of its candidates; without those, the instruction alone.
    `with_reasoning` puts what the model reasoned before each answer, between the tags that most of them use.
    """
    names = ("instruction", "response", "later_turns", "reasoning", "later_reasoning")
    if "response" not in rows.column_names:
        names = ("instruction", "chosen_response", "later_turns", "chosen_reasoning", "later_reasoning")
    nothing = [None] * rows.num_rows
    columns = (rows[name].to_pylist() if name in rows.column_names else nothing for name in names)
    conversations = []
    for instruction, response, later, first_reasoning, later_reasoning in zip(*columns, strict=True):
        messages = [{"role": "user", "content": instruction}]
        if response is not None:
            messages.append({"role": "assistant", "content": response})
        messages += later or []
        if with_reasoning:
            messages = _thinking_aloud(messages, [first_reasoning, *(later_reasoning or [])])
        conversations.append(messages)
    return pa.array(conversations, type=_MESSAGES)


def _pairs(rows: pa.Table, *, with_reasoning: bool) -> dict[str, pa.Array]:
    """`prompt`, and `chosen` and `rejected`, which go on from it: a message each, as a list."""
    prompts = [[{"role": "user", "content": text}] for text in rows["instruction"].to_pylist()]
    pairs = {"prompt": pa.array(prompts, type=_MESSAGES)}
    for side in ("chosen", "rejected"):
        answers = [[{"role": "assistant", "content": text}] for text in rows[f"{side}_response"].to_pylist()]
        if with_reasoning:
            thoughts = rows[f"{side}_reasoning"].to_pylist()
            answers = [
                _thinking_aloud(*one) for one in zip(answers, ([one] for one in thoughts), strict=True)
            ]
        pairs[side] = pa.array(answers, type=_MESSAGES)
    return pairs


def _thinking_aloud(messages: list[dict[str, str]], reasoning: list[str | None]) -> list[dict[str, str]]:
    thoughts = iter(reasoning)
    return [
        {"role": "assistant", "content": f"<think>\n{thought}\n</think>\n\n{message['content']}"}
        if message["role"] == "assistant" and (thought := next(thoughts))
        else message
        for message in messages
    ]
