"""The commands about what is in a dataset, and how it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from magpie.cli.options import AsJson, Overwrite
from magpie.errors import RecipeError
from magpie.terminal import new_console, print_json, print_line

if TYPE_CHECKING:
    from magpie.publish.formats import Format
    from magpie.publish.trainers import Trainer

Dataset = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run, the folder of a dataset, or a file of rows.")
]

Out = Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to write the dataset to.")]


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A file or a folder of files (Parquet, JSON, CSV; .gz or .zst), or ORG/NAME on the hub.",
        ),
    ],
    out: Out,
    split: Annotated[
        str | None, typer.Option(help="Which split to read: train by default; `all` reads all files.")
    ] = None,
    generator: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Who wrote the rows, where they do not say so.")
    ] = None,
    license_: Annotated[
        str | None, typer.Option("--license", metavar="KEY", help="Their licence, where they name none.")
    ] = None,
) -> None:
    """Make a dataset of one that was made elsewhere, for every other verb to read."""
    from magpie import api
    from magpie.report.left_out import print_rows
    from magpie.report.sample_progress import shown_progress

    console = new_console()
    with shown_progress(console) as on_progress:
        result = api.import_dataset(
            source, out, split=split, generator=generator, license=license_, on_progress=on_progress
        )
    print_rows(result.rows_in, result.rows, result.left_out, out, console)


Threshold = Annotated[
    float,
    typer.Option(min=0, help="Instructions are near below this squared distance; 0: only the same ones are."),
]
Embedder = Annotated[
    str, typer.Option(metavar="MODEL", help="Whose vectors tell how near they are; none: only the same are.")
]


def merge(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="A B ...", help="Runs, folders of datasets, or files, in the order to keep."),
    ],
    out: Out,
    threshold: Threshold = 0.05,
    embedder: Embedder = "demo-embedder",
) -> None:
    """Put datasets together, without the rows of later ones that repeat an earlier one."""
    from magpie import api
    from magpie.report.left_out import print_rows
    from magpie.report.sample_progress import shown_progress

    console = new_console()
    with shown_progress(console) as on_progress:
        result = api.merge(
            sources, out, threshold=threshold, embedder=_named(embedder), on_progress=on_progress
        )
    for name in result.renamed:
        print_line(f"the ids of {name} are those of others: each begins with {name}/ now")
    print_rows(result.rows_in, result.rows, result.left_out, out, console)


def split(
    source: Annotated[
        str, typer.Argument(metavar="DATASET", help="A run, a folder of a dataset, or a file.")
    ],
    test: Annotated[float, typer.Option(help="The share of test rows, such as 0.02.")],
    out: Out,
    seed: Annotated[int, typer.Option(min=0, help="Which rows they are.")] = 0,
    threshold: Threshold = 0.05,
    embedder: Embedder = "demo-embedder",
) -> None:
    """Part a dataset into train and test, with near instructions on one side."""
    from magpie import api
    from magpie.report.sample_progress import shown_progress
    from magpie.text import counted

    with shown_progress(new_console()) as on_progress:
        result = api.split(
            source,
            out,
            test=test,
            seed=seed,
            threshold=threshold,
            embedder=_named(embedder),
            on_progress=on_progress,
        )
    groups = counted(result.groups, "group")
    print_line(
        f"{counted(result.rows_in, 'row')} in; {result.grouped:,} of them in {groups} of near instructions, the "
        f"largest of {counted(result.largest, 'row')}, each on one side"
    )
    print_line(f"{counted(result.train, 'row')} in {out / 'train'}, {result.test:,} in {out / 'test'}")


def _named(embedder: str) -> str | None:
    return None if embedder == "none" else embedder


def export(
    run: Dataset,
    out: Annotated[
        Path,
        typer.Option(
            help="The file to write: .jsonl for lines, .json for an array, also .gz or .zst; .parquet; .csv."
        ),
    ],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="messages (also called trl-sft), sharegpt, alpaca, preference (trl-preference), magpie, openai, "
            "llama-factory, axolotl, csv, prompt-completion or text.",
        ),
    ] = None,
    trainer: Annotated[
        str | None,
        typer.Option(help="trl, axolotl or llama-factory: make --out a folder that trains as it is."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --trainer: the model to train; Qwen/Qwen3-1.7B-Base by default.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="The columns to write beside the format's own; see `magpie columns`."
        ),
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="RULE", help="Only rows for which this holds, as in a filter.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only rows of at most N tokens, by --tokenizer.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Whose chat template renders, and whose tokens count.")
    ] = None,
    shuffle: Annotated[
        int | None,
        typer.Option(min=0, metavar="SEED", help="Write the rows in an order that the seed decides."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="At most N rows.")] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="0.98/0.02", help="Shares of rows for files of train and test."),
    ] = None,
    rows_per_file: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Write files of N rows each.")
    ] = None,
    forms: Annotated[
        int | None,
        typer.Option(
            metavar="SEED", help="Write each instance of a task in one of several forms, drawn by SEED."
        ),
    ] = None,
    drop_empty: Annotated[
        bool, typer.Option("--drop-empty", help="Leave out columns without a value in any row.")
    ] = False,
    drop_constant: Annotated[
        bool, typer.Option("--drop-constant", help="Leave out columns with the same value in every row.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the dataset in a form that trainers read."""
    from magpie import api
    from magpie.report.left_out import print_rows
    from magpie.report.sample_progress import shown_progress

    _check_format(format_, trainer, model=model, columns=columns)
    console = new_console()
    with shown_progress(console) as on_progress:
        rows: dict[str, Any] = {
            "where": where,
            "max_tokens": max_tokens,
            "limit": limit,
            "tokenizer": tokenizer,
            "shuffle": shuffle,
            "split": split,
            "rows_per_file": rows_per_file,
            "forms": forms,
            "overwrite": overwrite,
            "on_progress": on_progress,
        }
        command = None
        if trainer is not None:
            folder = api.export_for_trainer(run, cast("Trainer", trainer), out, model=model, **rows)
            result, command = folder.exported, folder.command
        else:
            result = api.export(
                run,
                cast("Format", format_ or "messages"),
                out,
                columns=None if columns is None else columns.split(","),
                drop_empty=drop_empty,
                drop_constant=drop_constant,
                **rows,
            )
    place = f"{len(result.files):,} files beside {out}" if len(result.files) > 1 and trainer is None else out
    print_rows(result.rows_in, result.rows, result.left_out, place, console)
    for path in result.beside if trainer is None else ():
        print_line(f"{path} says how to read them")
    if command is not None:
        print_line(f"train with {out / 'train.sh'}, which runs: {command}")


def _check_format(format: str | None, trainer: str | None, *, model: str | None, columns: str | None) -> None:
    """Raise RecipeError for a format or a trainer that there is not, and for options that do not go together."""
    from magpie.publish.formats import FORMATS
    from magpie.publish.trainers import TRAINERS

    if format is not None and format not in FORMATS:
        raise RecipeError(f"--format {format!r} is not known; use one of: {', '.join(FORMATS)}")
    if trainer is not None and trainer not in TRAINERS:
        raise RecipeError(f"--trainer {trainer!r} is not known; use one of: {', '.join(TRAINERS)}")
    if trainer is not None and (format is not None or columns is not None):
        raise RecipeError("--trainer chooses the format and the columns; leave out --format and --columns")
    if trainer is None and model is not None:
        raise RecipeError(
            "--model names what is trained, with --trainer; a tokenizer is named by --tokenizer"
        )


def columns(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN]", help="The folder of a run or of a dataset; without it, of every step."
        ),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Explain the columns: type, meaning, which step makes them, what the published datasets call them."""
    from magpie import api
    from magpie.report.columns import print_columns

    result = api.columns(run)
    if json_:
        print_json({"columns": [column.to_json() for column in result]})
    else:
        print_columns(result, new_console())
