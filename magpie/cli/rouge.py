"""The command of the ROUGE-L filter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magpie.cli.options import Overwrite
from magpie.terminal import new_console, print_json, print_line


def rouge(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Instructions: a file, a folder, a run, a hub dataset.")
    ],
    threshold: Annotated[
        float, typer.Option(help="Reject an instruction whose ROUGE-L with an earlier one is above this.")
    ] = 0.7,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Compare with these too, such as seed tasks; may come again."),
    ] = None,
    averages: Annotated[
        bool, typer.Option("--averages", help="Compare every pair: the ten most similar, and the mean.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the decision about each instruction, as JSON lines.")
    ] = None,
    overwrite: Overwrite = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Keep the instructions that are unlike every earlier one, by ROUGE-L, as Self-Instruct does."""
    from magpie import api
    from magpie.report.rouge_table import print_rouge
    from magpie.report.sample_progress import shown_progress

    with shown_progress(new_console(stderr=True)) as on_progress:
        result = api.rouge(
            file, against=against or (), threshold=threshold, averages=averages, out=out, overwrite=overwrite,
            on_progress=on_progress,
        )  # fmt: skip
    if json_:
        figures = {"rows": len(result.decisions), "accepted": result.accepted, "rejected": result.rejected}
        print_json({**figures, "threshold": threshold})
    else:
        print_rouge(result, new_console())
    if out is not None and not json_:
        print_line(f"the decisions are in {out}")
