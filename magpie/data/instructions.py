"""The instructions of datasets that were made elsewhere: a run, Parquet or JSON files, a dataset of the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from magpie.data.messages import USER_ROLES
from magpie.errors import RecipeError
from magpie.steps.base import Instructions

COLUMNS = ("instruction", "messages", "conversations", "conversation", "prompt", "question", "text", "input")
"""Where an instruction is looked for, in this order: a text, or a list of messages whose first user turn it is."""

_FILES = (".parquet", ".jsonl", ".json")


def read_instructions(name: str) -> Instructions:
    """The instructions of a run's folder, a .parquet, .jsonl or .json file, a folder of such files, or a hub dataset.

    A hub dataset is ORG/NAME, or ORG/NAME:SPLIT for another split than train. Rows without an instruction are passed
    over. Raises RecipeError when there is no such dataset, no column of it holds instructions, or not one row has one.
    """
    path = Path(name)
    rows = _rows_of_files(_files(path), name) if path.exists() else _rows_of_hub(name)
    ids, places, texts = [], [], []
    column: str | None = None
    number = 0
    for number, row in enumerate(rows, start=1):
        # The rows of JSON lines may have different columns: the last one that was used is tried first.
        column = column if column in row else next((name for name in COLUMNS if name in row), None)
        if column is None:
            raise RecipeError(
                f"row {number} of {name} has no instruction; it has {', '.join(row) or 'nothing'}, "
                f"and one of these is looked for: {', '.join(COLUMNS)}"
            )
        text = _instruction(row[column])
        if text:
            places.append(f"{name}:{number}")
            row_id = row.get("id")
            ids.append(places[-1] if row_id is None or row_id == "" else str(row_id))
            texts.append(text)
    if number and not texts:
        raise RecipeError(
            f"not one row of {name} has an instruction: `{column}` is neither a text nor a list of messages, "
            "or empty; give a dataset with one"
        )
    # JSON, so that no other ids and texts give the same bytes; in ASCII, since half of a surrogate pair has no UTF-8.
    content = json.dumps([ids, texts], ensure_ascii=True)
    digest = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
    return Instructions(name, tuple(ids), tuple(places), tuple(texts), digest)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in _FILES:
            raise RecipeError(f"{path} is no dataset; give a file that ends in {', '.join(_FILES)}")
        return [path]
    # Of a run only the dataset: its folder also holds a log and a report, which are JSON.
    folder = path / "dataset" if (path / "recipe.yaml").is_file() else path
    # A hidden file is no rows: the manifest of a dataset is JSON too.
    files = [file for file in sorted(folder.glob("[!.]*")) if file.suffix in _FILES]
    if not files:
        raise RecipeError(f"{path} holds no dataset; finish its build, or name a file in it")
    return files


def _rows_of_files(files: Iterable[Path], name: str) -> Iterator[dict[str, Any]]:
    for path in files:
        try:
            yield from _rows_of_parquet(path) if path.suffix == ".parquet" else _rows_of_json(path)
        except (OSError, ValueError) as error:  # Arrow's and JSON's errors are among them
            raise RecipeError(f"{path} cannot be read ({error}); check {name}") from error


def _rows_of_parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=_wanted(file.schema_arrow.names)):
            yield from batch.to_pylist()


def _wanted(names: Sequence[str]) -> list[str]:
    """The columns to read. All of them if none can hold an instruction, so that the error can name them."""
    wanted = [name for name in names if name in {"id", *COLUMNS}]
    return wanted if {*wanted} - {"id"} else list(names)


def _rows_of_json(path: Path) -> Iterator[dict[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    # One array of objects, or an object a line. Only line feeds end a line: `splitlines` would also split at
    # characters such as U+2028, which may stand in a JSON string.
    rows = (
        json.loads(text) if text.lstrip()[:1] == "[" else map(json.loads, filter(str.strip, text.split("\n")))
    )
    for row in rows:
        yield row if isinstance(row, dict) else {"text": row}


def _rows_of_hub(name: str) -> Iterator[dict[str, Any]]:
    dataset, _, split = name.partition(":")
    if dataset.count("/") != 1 or Path(dataset).suffix in _FILES or dataset.startswith((".", "/")):
        raise RecipeError(f"there is no {name}; give a run, a file, or a hub dataset as ORG/NAME")
    import datasets

    try:
        table = datasets.load_dataset(dataset, split=split or "train")
    except Exception as error:  # the hub's libraries raise of every kind
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecipeError(
            f"the hub dataset {name} cannot be read ({why}); check its name, or the net"
        ) from error
    yield from table.select_columns(_wanted(table.column_names))


def _instruction(value: Any) -> str | None:
    """The text itself, or the first user turn of a list of messages."""
    if isinstance(value, str):
        return value.strip() or None
    for message in value if isinstance(value, list | tuple) else ():
        if isinstance(message, dict) and (message.get("role") or message.get("from")) in USER_ROLES:
            content = message.get("content") or message.get("value")
            return content.strip() or None if isinstance(content, str) else None
    return None
