"""A dataset in the shapes that trainers read, as JSON lines, a JSON array or Parquet.

`messages`: `{"id", "messages": [{"role": "user" | "assistant", "content"}, ...]}`, as TRL and chat templates take it.

`sharegpt`: `{"id", "conversations": [{"from": "human" | "gpt", "value"}, ...]}`.

`alpaca`: `{"instruction", "input", "output"}`, and `history`, the earlier turns as `[instruction, response]` pairs, in
datasets of more than one turn; `instruction` and `output` are then the last turn. LLaMA-Factory reads all four under
these names. `input` is always empty: the whole message is the instruction.

`preference`: `{"id", "prompt", "chosen", "rejected"}`, each of the last three a list of messages, as TRL takes pairs;
for runs with `prefer` in their recipe.

`magpie`: the columns of the published Magpie datasets, under their names and in their forms, and no others.

Each but the last keeps the dataset's other columns. But only `preference` keeps the pair, since TRL's trainers use the
`prompt` of a row that has one and ignore its messages. And `alpaca` leaves out the columns `instruction` and `response`
of the first turn, since `instruction` means the last turn there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

import pyarrow as pa

from magpie.errors import RunError, StorageError
from magpie.publish.shapes import FORMATS, Format, Shape, available, shape_of, shaped
from magpie.publish.survey import Survey, in_order, survey
from magpie.publish.writing import file_kind, write_json, write_parquet
from magpie.runs.opened import OpenDataset, open_dataset
from magpie.runs.run import Run
from magpie.storage.writing import make_folders, replacing, storage_errors

__all__ = ["FORMATS", "Format", "export"]


def export(
    source: Run | str | Path,
    *,
    format: Format,
    out: Path,
    columns: Sequence[str] | None = None,
    drop_empty: bool = False,
    drop_constant: bool = False,
    overwrite: bool = False,
) -> int:
    """Write the dataset of a run, or in a folder, to the file `out`; how many rows.

    `out` ends in .jsonl (an object a line, UTF-8), .json (an array of objects), either also in .gz or .zst, or in
    .parquet (zstd). `columns` names the columns to write beside those that make the format; `drop_empty` leaves out
    those without a value in any row, `drop_constant` those with the same one in all. Rows pass through a few thousand
    at a time, and `out` appears when it is whole. In JSON lines the rows that show the type of each column come first:
    see `survey.py`.

    Raises MagpieError for another ending, RunError for a run that is not finished, a file that is there already and not
    to `overwrite`, or a row the format cannot hold, DamagedShardError, StorageError.
    """
    with storage_errors(Path(out)):
        if Path(out).is_dir():  # said before anything of its ending
            raise RunError(
                f"{out} is a folder; name a file in it with --out, such as {Path(out) / 'rows.jsonl'}"
            )
    kind = file_kind(Path(out))
    dataset = open_dataset(source)
    target = _writable(Path(out), dataset, overwrite=overwrite)
    shape = shape_of(format, dataset)
    if columns is not None:
        columns = _known(columns, available(dataset, shape))
    left_out, first = _looked_at(
        dataset, shape, columns, kind, drop_empty=drop_empty, drop_constant=drop_constant
    )

    def tables() -> Iterator[pa.Table]:
        return shaped(dataset, shape, columns, left_out)

    make_folders(target.parent)
    with replacing(target) as temporary:
        if kind == ".parquet":
            return write_parquet(temporary, tables, features=_features(dataset, shape))
        # JSON has no place for such a note: the names of classes are written in the place of their numbers.
        return write_json(temporary, target, tables, features=dataset.features, first=first)


def _looked_at(
    dataset: OpenDataset,
    shape: Shape,
    columns: Sequence[str] | None,
    kind: str,
    *,
    drop_empty: bool,
    drop_constant: bool,
) -> tuple[set[str], list[int]]:
    """The columns to leave out, and the rows to write first."""
    if kind != ".jsonl" and not drop_empty and not drop_constant:
        return set(), []  # Parquet has a schema, and an array is read as a whole
    seen: Survey = survey(shaped(dataset, shape, columns), constants=drop_constant)
    dropped = (seen.empty if drop_empty else set()) | (seen.constant if drop_constant else set())
    # The conversation is what the format is for, whatever its rows hold.
    never = {
        "id",
        "uuid",
        "messages",
        "conversations",
        "instruction",
        "response",
        "prompt",
        "chosen",
        "rejected",
    }
    if not shape.alone:
        never |= set(shape.own)
    first = seen.showing if kind == ".jsonl" and not in_order(seen.showing) else []
    return dropped - never, first


def _features(dataset: OpenDataset, shape: Shape) -> bytes | None:
    """What `datasets` noted of the columns, such as the names of classes; a format's own columns have no such note."""
    return None if shape.alone else dataset.features


def _known(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns asked for, each once. Raises RunError for one that is not there."""
    wanted = list(dict.fromkeys(name.strip() for name in columns if name.strip()))
    for name in wanted:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            advice = f"did you mean {close[0]!r}? There are" if close else "there are"
            raise RunError(f"the dataset has no column {name!r}; {advice}: {', '.join(names)}")
    return wanted


def _writable(out: Path, dataset: OpenDataset, *, overwrite: bool) -> Path:
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
