"""The command that lays datasets beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magpie.cli.options import AsJson, Price
from magpie.terminal import new_console, print_json, print_line


def compare(
    sources: Annotated[
        list[str], typer.Argument(metavar="A B ...", help="Runs, folders of datasets, or files of rows.")
    ],
    figures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Draw figures there, as PNG and SVG.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, help="Instructions are near copies below this squared distance.")
    ] = 0.05,
    covers: Annotated[
        float,
        typer.Option(min=0, help="A row covers another, about the same topic, below this squared distance."),
    ] = 0.6,
    embedder: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Whose vectors tell how near they are; none: without any."),
    ] = None,
    sample: Annotated[
        int, typer.Option(min=2, metavar="N", help="Embed at most N rows of each set.")
    ] = 5_000,
    seed: Annotated[int, typer.Option(min=0, help="Which rows are drawn.")] = 0,
    price: Price = None,
    verbs: Annotated[
        bool, typer.Option("--verbs/--no-verbs", help="Parse instructions for what they ask for (spaCy).")
    ] = True,
    json_: AsJson = False,
) -> None:
    """Compare datasets: what each is, what they share, and what differs beyond noise.

    Two filters over one run are compared by `magpie filter RUN FILTER --compare OTHER`.
    """
    from magpie import api
    from magpie.report.comparison_figures import write_figures
    from magpie.report.comparison_table import print_sets
    from magpie.report.sample_progress import shown_progress

    console = new_console(stderr=json_)
    with shown_progress(console) as on_progress:
        result = api.compare_sets(
            sources,
            embedder=embedder,
            threshold=threshold,
            covers=covers,
            sample=sample,
            seed=seed,
            price=price,
            verbs=verbs,
            on_progress=on_progress,
        )
    written = [] if figures is None else write_figures(result, figures)
    if json_:
        print_json(result.to_json())
        return
    print_sets(result, console)
    if written:
        print_line(f"{len(written)} figures in {figures}")
