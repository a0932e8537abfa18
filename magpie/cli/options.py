"""What the commands share: options that several of them have, and the parsing of arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from magpie.errors import RecipeError

if TYPE_CHECKING:
    from magpie.recipe import Recipe
    from magpie.runs.run import Run

RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="A run: its folder, or s3://bucket/run.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Change one setting; may be given often."),
]
RecipeName = Annotated[str, typer.Argument(help="A recipe file, or the name of one that ships.")]
ModelName = Annotated[str, typer.Argument(help="A hub id, a folder, or an embedded model such as demo.")]
AsJson = Annotated[bool, typer.Option("--json", help="As one JSON object.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there already.")]
Price = Annotated[
    float | None,
    typer.Option(min=0, metavar="DOLLARS", help="What an hour of a GPU costs, or of the machine."),
]
EngineName = Annotated[
    str | None,
    typer.Option("--engine", help="The engine for every model, such as auto, vllm or transformers."),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code", help="Run the recipe's own steps: Python code. Say so only of code you trust."
    ),
]


def open_run(folder: str) -> Run:
    """The run in a folder."""
    from magpie.runs.run import Run

    return Run.open(folder)


def engine_kind(name: str | None) -> str | None:
    """The engine's name, checked. Raises RecipeError when there is no such engine."""
    from magpie.engines import engine_names

    if name is not None and name not in engine_names():
        raise RecipeError(f"--engine {name!r} is not known; use one of: {', '.join(engine_names())}")
    return name


def numbers(option: str, text: str) -> tuple[float, ...]:
    """The numbers in a text such as "0.8,1.0". Raises RecipeError."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise RecipeError(
            f"{option} {text!r}: write numbers with commas between them, such as 0.8,1.0"
        ) from error


def recipe_from(
    source: str,
    *,
    rows: int | None = None,
    seed: int | None = None,
    engine: str | None = None,
    sets: list[str],
    allow_code: bool = False,
) -> Recipe:
    """The recipe with the changes that the arguments make to it. Raises RecipeError."""
    from magpie.recipe.loading import load_recipe, parse_value
    from magpie.user_code import with_code

    overrides = {}
    for item in sets:
        key, equals, value = item.partition("=")
        if not equals:
            raise RecipeError(f"--set {item}: write it as a.b=value")
        overrides[key.strip()] = parse_value(value)
    loaded = load_recipe(source, rows=rows, seed=seed, engine=engine_kind(engine), overrides=overrides)
    return with_code(loaded, allowed=allow_code)
