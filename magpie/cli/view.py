"""The command that opens rows in Embedding Atlas."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from magpie.terminal import new_console, print_line


def view(
    source: Annotated[str, typer.Argument(metavar="RUN", help="A run, or the folder or file of a dataset.")],
    export: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write it there as static files, for a Space.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The first port to try; 0: any free one.")
    ] = 5055,
    sample: Annotated[int, typer.Option(min=1, metavar="N", help="Show at most N rows.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Which ones.")] = 0,
    embedder: Annotated[
        str, typer.Option(metavar="MODEL", help="Whose vectors a dataset gets; a run has its own.")
    ] = "demo-embedder",
) -> None:
    """Open a run in Embedding Atlas, on this machine alone: a map of its rows, with tags, search and neighbours."""
    from magpie import api
    from magpie.publish import atlas
    from magpie.report.sample_progress import shown_progress

    atlas.check_installed()
    with shown_progress(new_console(stderr=True)) as on_progress:
        rows = api.atlas_rows(source, most=sample, seed=seed, embedder=embedder, on_progress=on_progress)
    shown = f"{rows.table.num_rows:,} of {rows.of:,} rows; the map is {rows.method}"
    if export is not None:
        atlas.export(rows, export)
        print_line(f"{shown}; in {export}")
        return

    def on_ready(address: str) -> None:
        print_line(f"{shown}; on this machine until Ctrl-C: {address}")
        sys.stdout.flush()

    atlas.serve(rows, port=port, on_ready=on_ready)
