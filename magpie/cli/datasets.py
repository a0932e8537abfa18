"""The commands about what is in a dataset, and how it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magpie.errors import RecipeError
from magpie.terminal import new_console, print_json, print_line

Dataset = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a run, or of a dataset that a filter wrote.")
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


def export(
    run: Dataset,
    format_: Annotated[
        str, typer.Option("--format", help="messages, sharegpt, alpaca, preference or magpie.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The file to write: .jsonl for lines, .json for an array, also .gz or .zst; .parquet."
        ),
    ],
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="The columns to write beside the format's own; see `magpie columns`."
        ),
    ] = None,
    drop_empty: Annotated[
        bool, typer.Option("--drop-empty", help="Leave out columns without a value in any row.")
    ] = False,
    drop_constant: Annotated[
        bool, typer.Option("--drop-constant", help="Leave out columns with the same value in every row.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it is there already.")
    ] = False,
) -> None:
    """Write the dataset in a format that trainers read."""
    from magpie import api
    from magpie.publish.formats import FORMATS

    if format_ not in FORMATS:
        raise RecipeError(f"--format {format_!r} is not known; use one of: {', '.join(FORMATS)}")
    rows = api.export(
        run,
        format_,
        out,
        columns=None if columns is None else columns.split(","),
        drop_empty=drop_empty,
        drop_constant=drop_constant,
        overwrite=overwrite,
    )
    print_line(f"{rows:,} {'row' if rows == 1 else 'rows'} in {out}")


def columns(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN]", help="The folder of a run or of a dataset; without it, of every step."
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Explain the columns: type, meaning, which step makes them, what the published datasets call them."""
    from magpie import api
    from magpie.report.columns import print_columns

    result = api.columns(run)
    if json_:
        print_json({"columns": [column.to_json() for column in result]})
    else:
        print_columns(result, new_console())
