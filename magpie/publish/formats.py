"""The final dataset in the shapes that trainers read, as JSON lines or Parquet.

`messages`: `{"id", "messages": [{"role": "user" | "assistant", "content"}, ...]}`, as TRL and chat templates take it.

`sharegpt`: `{"id", "conversations": [{"from": "human" | "gpt", "value"}, ...]}`.

`alpaca`: `{"instruction", "input", "output"}`, and `history`, the earlier turns as `[instruction, response]` pairs, in
datasets of more than one turn; `instruction` and `output` are then the last turn. LLaMA-Factory reads all four under
these names. `input` is always empty: the whole message is the instruction.

`preference`: `{"id", "prompt", "chosen", "rejected"}`, each of the last three a list of messages, as TRL takes pairs;
for runs with `prefer` in their recipe.

Each keeps the dataset's other columns. But only `preference` keeps the pair, since TRL's trainers use the `prompt` of a
row that has one and ignore its messages. And `alpaca` leaves out the columns `instruction` and `response` of the first
turn, since `instruction` means the last turn there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from magpie.data.messages import SHAREGPT_ROLES
from magpie.errors import MagpieError, RunError
from magpie.runs.run import Run
from magpie.storage.sealed import inspect_shard
from magpie.storage.writing import make_folders, replacing

Format = Literal["messages", "sharegpt", "alpaca", "preference"]
FORMATS: tuple[Format, ...] = get_args(Format)

_BATCH_ROWS = 4096
_CONVERSATIONS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
_PAIR = ("prompt", "chosen", "rejected")
_HISTORY = pa.list_(pa.list_(pa.string()))


def export(run: Run, *, format: Format, out: Path) -> int:
    """Write the final dataset of `run` to file `out`; how many rows.

    `out` ends in .jsonl or .json (an object a line, UTF-8) or in .parquet (zstd). Rows pass through a few thousand at
    a time, and `out` appears when it is whole. Raises MagpieError for another ending, RunError for a run that is not
    finished or a row the format cannot hold, DamagedShardError, StorageError.
    """
    out = Path(out)
    write = _writer(out)
    if not run.dataset_files.names():
        raise RunError(f"{run.folder} holds no dataset yet; run the build again to finish it")
    make_folders(out.parent)
    with replacing(out) as temporary:
        return write(temporary, _shaped(run, format))


def _writer(out: Path) -> Callable[[Path, Iterator[pa.Table]], int]:
    writers = {".jsonl": _write_lines, ".json": _write_lines, ".parquet": _write_parquet}
    if out.suffix.lower() not in writers:
        raise MagpieError(
            f"cannot tell from {out.name!r} what to write; end --out in .jsonl for JSON lines or .parquet for Parquet"
        )
    return writers[out.suffix.lower()]


def _shaped(run: Run, format: Format) -> Iterator[pa.Table]:
    """The dataset in `format`, in tables of a few thousand rows; at least one, so that the columns are known."""
    shape = {
        "messages": _as_messages,
        "sharegpt": _as_sharegpt,
        "alpaca": _as_alpaca,
        "preference": _as_preference,
    }[format]
    for name in run.dataset_files.names():
        inspect_shard(run.storage, name)
        with pq.ParquetFile(run.storage.open(name), page_checksum_verification=True) as file:
            empty = True
            for batch in file.iter_batches(_BATCH_ROWS):
                empty = False
                yield shape(run, pa.Table.from_batches([batch]))
            if empty:
                yield shape(run, file.schema_arrow.empty_table())


def _as_messages(_: Run, rows: pa.Table) -> pa.Table:
    return _without_pairs(rows)


def _without_pairs(rows: pa.Table) -> pa.Table:
    return rows.drop_columns([name for name in _PAIR if name in rows.column_names])


def _as_sharegpt(_: Run, rows: pa.Table) -> pa.Table:
    conversations = [
        [{"from": SHAREGPT_ROLES[message["role"]], "value": message["content"]} for message in messages]
        for messages in rows["messages"].to_pylist()
    ]
    at = rows.column_names.index("messages")
    return _without_pairs(rows.set_column(at, "conversations", pa.array(conversations, _CONVERSATIONS)))


def _as_alpaca(run: Run, rows: pa.Table) -> pa.Table:
    turns = [
        _turns(row_id, messages)
        for row_id, messages in zip(rows["id"].to_pylist(), rows["messages"].to_pylist(), strict=True)
    ]
    columns: dict[str, Any] = {
        "instruction": pa.array([pairs[-1][0] for pairs in turns], pa.string()),
        "input": pa.array([""] * rows.num_rows, pa.string()),
        "output": pa.array([pairs[-1][1] for pairs in turns], pa.string()),
    }
    # By the run and not by the rows: all rows of all tables then have the same columns.
    if run.step_adding("later_turns") is not None:
        columns["history"] = pa.array([pairs[:-1] for pairs in turns], _HISTORY)
    others = [name for name in rows.column_names if name not in {*columns, *_PAIR, "messages", "response"}]
    return pa.table({**columns, **{name: rows[name] for name in others}})


def _as_preference(run: Run, rows: pa.Table) -> pa.Table:
    if run.step_adding("chosen_response") is None:
        raise RunError(
            f"{run.folder} has no pairs, for its recipe has no `prefer`; "
            "use another --format, or build with a recipe such as air-dpo"
        )
    return rows.drop_columns(["messages"])


def _turns(row_id: str, messages: list[dict[str, str]]) -> list[list[str]]:
    """The messages as `[instruction, response]` pairs."""
    if not messages or len(messages) % 2:
        raise RunError(
            f"row {row_id} has a message without an answer, which alpaca cannot hold; use --format messages or sharegpt"
        )
    texts = [message["content"] for message in messages]
    return [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]


def _write_lines(path: Path, tables: Iterator[pa.Table]) -> int:
    rows = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for table in tables:
            for row in _short_floats(table).to_pylist():
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            rows += table.num_rows
    return rows


def _write_parquet(path: Path, tables: Iterator[pa.Table]) -> int:
    first = next(tables)
    rows = int(first.num_rows)
    with pq.ParquetWriter(
        path,
        first.schema.remove_metadata(),
        compression="zstd",
        write_page_checksum=True,
        write_page_index=True,
    ) as writer:
        writer.write_table(first.replace_schema_metadata(None))
        for table in tables:
            writer.write_table(table.replace_schema_metadata(None))
            rows += table.num_rows
    return rows


def _short_floats(table: pa.Table) -> pa.Table:
    """Floats with as few digits as they need: 0.8, not 0.800000011920929, the same in 32 bits. NaN becomes null."""
    for at, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            table = table.set_column(at, field.name, pa.array(_short(table[at]), pa.float64()))
        elif pa.types.is_list(field.type) and pa.types.is_floating(field.type.value_type):
            # Lists, too: a reward is then written the same among those of the candidates and beside the chosen one.
            column = table[at].combine_chunks()
            values = iter(_short(column.flatten()))
            lists = [None if items is None else [next(values) for _ in items] for items in column.to_pylist()]
            table = table.set_column(at, field.name, pa.array(lists, pa.list_(pa.float64())))
    return table


def _short(floats: Any) -> list[float | None]:
    # Arrow writes the shortest text that reads back as the same float32.
    values = (None if text is None else float(text) for text in floats.cast(pa.string()).to_pylist())
    return [value if value is not None and math.isfinite(value) else None for value in values]
