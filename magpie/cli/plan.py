"""The command about a build that is not begun: what it would cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magpie.cli.options import AllowCode, AsJson, EngineName, RecipeName, Sets, recipe_from
from magpie.terminal import new_console, print_json


def plan(
    recipe: RecipeName,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="a100-40gb, a100-80gb, h100-80gb, h200, b200, l40s or rtx-4090; else this machine's."
        ),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="How many of them; 1, or all of this machine's.")
    ] = None,
    price: Annotated[float, typer.Option(min=0, help="Dollars for one of them for an hour.")] = 0.0,
    like: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="An earlier, smaller run: rows and tokens of each step as there."),
    ] = None,
    rows: Annotated[int | None, typer.Option(help="How many instructions to ask for.")] = None,
    set_: Sets = None,
    engine: EngineName = None,
    allow_code: AllowCode = False,
    json_: AsJson = False,
) -> None:
    """Say what a build would take: GPUs, memory, tokens, hours, dollars, disk."""
    from magpie import api
    from magpie.report.costs_table import print_costs

    loaded = recipe_from(recipe, rows=rows, seed=None, engine=engine, sets=set_ or [], allow_code=allow_code)
    costs = api.plan_costs(loaded, gpu=gpu, gpus=gpus, price=price, like=like, allow_code=allow_code)
    if json_:
        print_json(costs.to_json())
    else:
        print_costs(costs, new_console())
