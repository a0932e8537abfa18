"""The command that writes a run or a dataset to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magpie.cli.options import Price
from magpie.terminal import new_console, print_line


def report(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN_OR_DATASET", help="A run, the folder of a dataset, or a file of rows."),
    ],
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OTHER",
            help="Another run, dataset or file, to be laid over the map; may be given often.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="An .html file, or a folder; report.html beside the rows by default."),
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="What makes the vectors of rows without stored ones, such as demo-embedder; their words by default.",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Whose tokens of conversations are counted; the generator's by default."
        ),
    ] = None,
    price: Price = None,
    figures: Annotated[
        bool, typer.Option("--figures/--no-figures", help="Write each figure as PNG and SVG too.")
    ] = True,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Leave out what takes a library or a model of its own."),
    ] = False,
) -> None:
    """Write what is in a run or a dataset as one page to look at, with a map, figures and rows to read."""
    from magpie import api
    from magpie.report.sample_progress import shown_progress

    with shown_progress(new_console(stderr=True)) as on_progress:
        place = api.report(
            run,
            out,
            compare=compare or (),
            embedder=embedder,
            tokenizer=tokenizer,
            price=price,
            figures=figures,
            quick=quick,
            on_progress=on_progress,
        )
    print_line(str(place))
