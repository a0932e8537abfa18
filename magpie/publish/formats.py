"""A dataset in the forms that trainers read, as JSON lines, a JSON array, Parquet or CSV.

`messages`: `{"id", "messages": [{"role": "user" | "assistant", "content"}, ...]}`, as TRL and chat templates take it;
`trl-sft` is another name for it.

`sharegpt`: `{"id", "conversations": [{"from": "human" | "gpt", "value"}, ...]}`.

`alpaca`: `{"instruction", "input", "output"}`, and `history`, the earlier turns as `[instruction, response]` pairs, in
datasets of more than one turn; `instruction` and `output` are then the last turn. LLaMA-Factory reads all four under
these names. `input` is empty, as the whole message is the instruction, but where a task and its input are apart.

`preference`: `{"id", "prompt", "chosen", "rejected"}`, each of the last three a list of messages, as TRL takes pairs;
for runs with `prefer` in their recipe. `trl-preference` is another name for it.

`magpie`: the columns of the published Magpie datasets, under their names and in their forms, and no others.

`openai`: `{"messages"}` and nothing else, as files for fine-tuning are there. `llama-factory`: `{"conversations"}`, or
pairs, with an entry in `dataset_info.json` beside it. `axolotl`: `{"messages"}`, or pairs, with YAML to paste. `csv`:
`instruction,input,output`. `prompt-completion`: two texts that make one, as base models are trained on. `text`:
`{"text"}`, the conversation as a tokenizer's chat template writes it.

A dataset of `method: self-instruct` is written an instance a row, but for `preference` and `magpie`.

The first four keep the dataset's other columns. But only `preference` keeps the pair, since TRL's trainers use the
`prompt` of a row that has one and ignore its messages. And `alpaca` leaves out the columns `instruction` and `response`
of the first turn, since `instruction` means the last turn there. A row that a format cannot hold is left out, counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pyarrow as pa

from magpie.data.plain_columns import is_later_turn
from magpie.errors import RunError
from magpie.neighbors.vectors import ProgressCallback, no_progress
from magpie.publish.beside import refuse_beside, write_beside
from magpie.publish.choosing import Chosen, Tokens, Wanted, choose, limited
from magpie.publish.instances import by_instance
from magpie.publish.ordering import Tables, arranged, drawn, parted
from magpie.publish.outputs import Exported, Part, parts_of, writable, write_manifest
from magpie.publish.shapes import ALIASES, FORMATS, WHOLE_ROWS, Format, Shape, available, shape_of, shaped
from magpie.publish.survey import Survey, in_order, survey
from magpie.publish.writing import file_kind, first_ones, write_file
from magpie.runs.opened import OpenDataset, open_dataset
from magpie.runs.run import Run
from magpie.storage.writing import make_folders, replacing, storage_errors

__all__ = ["FORMATS", "Exported", "Format", "Wanted", "export"]


def export(
    source: Run | str | Path,
    *,
    format: Format,
    out: Path,
    columns: Sequence[str] | None = None,
    drop_empty: bool = False,
    drop_constant: bool = False,
    overwrite: bool = False,
    wanted: Wanted | None = None,
    tokenizer: str | None = None,
    shuffle: int | None = None,
    split: Sequence[float] = (1.0,),
    rows_per_file: int | None = None,
    forms: int | None = None,
    on_progress: ProgressCallback = no_progress,
) -> Exported:
    """Write the dataset of a run, or in a folder, to the file `out`.

    `out` ends in .jsonl (an object a line, UTF-8), .json (an array of objects), either also in .gz or .zst, in .parquet
    (zstd), or for the format csv in .csv. `columns` names the columns to write beside those that make the format;
    `drop_empty` leaves out those without a value in any row, `drop_constant` those with the same one in all. `wanted`
    says which rows, `tokenizer` whose template renders them. `shuffle` is the seed of an order, `split` the shares of
    train and test, which are written to files of their own, as are every `rows_per_file` rows. `forms` is the seed by
    which each instance of a task is written in one of several forms.

    Rows pass through a few thousand at a time, and each file appears when it is whole. In JSON lines the rows that show
    the type of each column come first: see `survey.py`.

    Raises MagpieError for another ending, RunError for a run that is not finished, a file that is there already and not
    to `overwrite`, or rows that all do not fit, FilterError, ModelError, DamagedShardError, StorageError.
    """
    wanted = wanted or Wanted()
    with storage_errors(Path(out)):
        if Path(out).is_dir():  # said before anything of its ending
            raise RunError(
                f"{out} is a folder; name a file in it with --out, such as {Path(out) / 'rows.jsonl'}"
            )
    kind = file_kind(Path(out), is_csv=format == "csv")
    tokens = _tokens(format, tokenizer, wanted)
    dataset = open_dataset(source)
    if format not in WHOLE_ROWS and ALIASES.get(format) not in WHOLE_ROWS:
        dataset = by_instance(dataset, forms)
    shape = shape_of(format, dataset, None if tokens is None else tokens.text, forms=forms)
    chosen = _chosen(dataset, shape, wanted, tokens, on_progress)
    order, left_out = limited(drawn(chosen.positions, shuffle), chosen, wanted.limit)
    orders = {"": order} if len(split) < 2 else parted(order, split, shuffle)
    parts = parts_of(Path(out), orders, rows_per_file)
    targets = {file: writable(file, dataset, overwrite=overwrite) for part in parts for file in part.files}
    if not overwrite:
        refuse_beside(format, Path(out))
    if columns is not None:
        columns = _known(columns, available(dataset, shape))
    job = _Job(dataset, shape, columns, kind, drop_empty, drop_constant, chosen.rows_in, on_progress)
    make_folders(Path(out).resolve().parent)
    files = {file: rows for part in parts for file, rows in job.write(part, targets)}
    beside = write_beside(format, Path(out), parts, pairs="rejected" in shape.own)
    settings = {
        "format": format, "where": wanted.where, "max_tokens": wanted.max_tokens, "limit": wanted.limit,
        "tokenizer": tokenizer, "shuffle": shuffle, "split": list(split), "rows_per_file": rows_per_file,
        **({} if forms is None else {"forms": forms}),
    }  # fmt: skip
    manifest = write_manifest(Path(out), settings, files, left_out, of=dataset.name, rows_in=chosen.rows_in)
    return Exported(chosen.rows_in, sum(files.values()), files, left_out, manifest, beside)


def _tokens(format: Format, tokenizer: str | None, wanted: Wanted) -> Tokens | None:
    if tokenizer is None and (format == "text" or wanted.max_tokens is not None):
        what = "--format text renders" if format == "text" else "--max-tokens counts"
        raise RunError(
            f"{what} with a model's tokenizer; name the model with --tokenizer, such as Qwen/Qwen3-8B"
        )
    return None if tokenizer is None else Tokens(tokenizer)


def _chosen(
    dataset: OpenDataset, shape: Shape, wanted: Wanted, tokens: Tokens | None, on_progress: ProgressCallback
) -> Chosen:
    if shape.unfit is None and wanted.where is None and wanted.max_tokens is None:
        # Nothing is to be looked at: counting the rows reads one column.
        rows = dataset.count()
        return Chosen(np.arange(rows), rows, ())
    return choose(dataset, shape, wanted, tokens, on_progress)


@dataclass(frozen=True, slots=True)
class _Job:
    """What is written of which dataset, of `rows` rows in all."""

    dataset: OpenDataset
    shape: Shape
    columns: Sequence[str] | None
    kind: str
    drop_empty: bool
    drop_constant: bool
    rows: int
    on_progress: ProgressCallback

    def write(self, part: Part, targets: Mapping[Path, Path]) -> Iterator[tuple[Path, int]]:
        """Write the files of a part; each with its rows."""
        with arranged(
            lambda: shaped(self.dataset, self.shape, self.columns), part.order, self.rows
        ) as tables:
            left_out, first = _looked_at(
                tables, self.shape, self.kind, drop_empty=self.drop_empty, drop_constant=self.drop_constant
            )
            stream = _without(first_ones(tables, first), left_out)
            features = None if self.shape.alone else self.dataset.features
            done = 0
            for file, rows in part.pieces(self._counted(stream, part)):
                with replacing(targets[file]) as temporary:
                    done = write_file(temporary, targets[file], self.kind, rows, features=features)
                yield file, done

    def _counted(self, tables: Iterator[pa.Table], part: Part) -> Iterator[pa.Table]:
        done, what = 0, f"writing {part.name}".rstrip()
        for table in tables:
            yield table
            done += table.num_rows
            self.on_progress(what, done, len(part.order))


def _without(tables: Iterator[pa.Table], names: Collection[str]) -> Iterator[pa.Table]:
    for table in tables:
        yield table.drop_columns([name for name in table.column_names if name in names])


def _looked_at(
    tables: Tables, shape: Shape, kind: str, *, drop_empty: bool, drop_constant: bool
) -> tuple[set[str], list[int]]:
    """The columns to leave out, and the rows to write first."""
    if kind != ".jsonl" and not drop_empty and not drop_constant:
        return set(), []  # Parquet has a schema, and an array is read as a whole
    seen: Survey = survey(tables(), constants=drop_constant)
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


def _known(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns asked for, each once. Raises RunError for one that is not there."""
    wanted = list(dict.fromkeys(name.strip() for name in columns if name.strip()))
    for name in wanted:
        if name not in names and not is_later_turn(name):
            close = get_close_matches(name, names, n=1)
            advice = f"did you mean {close[0]!r}? There are" if close else "there are"
            raise RunError(f"the dataset has no column {name!r}; {advice}: {', '.join(names)}")
    return wanted
