"""The files of an export: what they are called, whether they may be written, and the manifest of what is in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from magpie.data.left_out import LeftOut
from magpie.errors import RunError, StorageError
from magpie.neighbors.vectors import Positions
from magpie.runs.opened import OpenDataset
from magpie.storage.writing import replacing, storage_errors

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: `rows_in` = `rows` + all `left_out`. `files` has the rows of each file.

    `beside` are files that tell a trainer of the others, and `manifest` holds all of this.
    """

    rows_in: int
    rows: int
    files: Mapping[Path, int]
    left_out: tuple[LeftOut, ...]
    manifest: Path
    beside: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one part, such as train, in their order, and the files that they go to."""

    name: str
    order: Positions
    files: tuple[Path, ...]
    rows_per_file: int

    def pieces(self, tables: Iterator[pa.Table]) -> Iterator[tuple[Path, Iterator[pa.Table]]]:
        """Each file with the tables of its rows, which must be read before the next one is asked for."""
        first = next(tables)
        waiting = [first]

        def piece() -> Iterator[pa.Table]:
            yield first.slice(0, 0)  # so that a file without rows has its columns
            room = self.rows_per_file
            while room:
                table = waiting.pop() if waiting else next(tables, None)
                if table is None:
                    return
                if table.num_rows > room:
                    waiting.append(table.slice(room))
                    table = table.slice(0, room)
                room -= table.num_rows
                yield table

        for file in self.files:
            yield file, piece()


def parts_of(out: Path, orders: Mapping[str, Positions], rows_per_file: int | None) -> list[Part]:
    """The parts, and their files: `out` itself, or beside it x-train.jsonl, x-train-00000-of-00003.jsonl and so on."""
    stem, ending = _ending(out)
    parts = []
    for name, order in orders.items():
        named = f"{stem}-{name}" if name else stem
        size = rows_per_file or max(1, len(order))
        count = max(1, -(-len(order) // size))
        names = [f"{named}-{at:05d}-of-{count:05d}" for at in range(count)] if rows_per_file else [named]
        parts.append(Part(name, order, tuple(out.with_name(f"{one}{ending}") for one in names), size))
    return parts


def _ending(out: Path) -> tuple[str, str]:
    """The name without its ending, and the ending, with that of a compression."""
    path = Path(out.stem) if out.suffix.lower() in {".gz", ".zst"} else out
    return path.stem, out.name[len(path.stem) :]


def writable(out: Path, dataset: OpenDataset, *, overwrite: bool) -> Path:
    """Where to write: what a link points to, so that the link stays. Raises RunError and StorageError."""
    with storage_errors(out):
        try:
            target = out.resolve()
            there = target.exists()
        except RuntimeError as error:  # links that lead to themselves, before Python 3.13
            raise StorageError(f"cannot write {out}: it is a link to itself; name another file") from error
        folders = {folder.resolve() for folder in dataset.folders}
        if folders & {target, *target.parents}:
            raise RunError(f"{out} lies in the dataset itself; choose another folder with --out")
        if there and not target.is_file():
            raise RunError(f"{out} is not a file that can be replaced; name another with --out")
        if there and not overwrite:
            raise RunError(
                f"{out} is there already; replace it with --overwrite, or name another file with --out"
            )
    return target


def write_manifest(
    out: Path,
    settings: Mapping[str, Any],
    files: Mapping[Path, int],
    left_out: Sequence[LeftOut],
    *,
    of: str,
    rows_in: int,
) -> Path:
    """Write what was exported, and what was left out and why, to a hidden file beside `out`; where that is."""
    # Hidden, so that whoever reads the folder does not take it for rows.
    path = out.with_name(f".{out.name}.manifest.json")
    content = {
        "of": of,
        "settings": dict(settings),
        "rows_in": rows_in,
        "rows": sum(files.values()),
        "left_out": [one.to_json() for one in left_out],
        "files": [
            {"name": file.name, "rows": rows, "blake2b": _digest(file)} for file, rows in files.items()
        ],
    }
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path


def write_text(path: Path, text: str) -> None:
    """Write a small file in one step. Raises StorageError."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
