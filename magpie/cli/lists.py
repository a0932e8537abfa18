"""The commands that list what ships with magpie, and that describe recipe and filter files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from magpie.cli.options import RecipeName, Sets, recipe_from
from magpie.terminal import print_json, print_line


class YamlKind(StrEnum):
    """The kinds of YAML files that people write."""

    recipe = "recipe"
    filter = "filter"


def templates() -> None:
    """List the chat templates that ship."""
    from magpie.chat import list_templates

    _list([(template.name, template.description) for template in list_templates()])


def filters() -> None:
    """List the filters that ship."""
    from magpie import shipped
    from magpie.recipe.loading import load_filter

    _list([(name, load_filter(name).description) for name in shipped.names("filters")])


def recipes() -> None:
    """List the recipes that ship."""
    from magpie import shipped
    from magpie.recipe.loading import load_recipe

    _list([(name, load_recipe(name).description) for name in shipped.names("recipes")])


def recipe(
    name: RecipeName,
    set_: Sets = None,
) -> None:
    """Print a recipe with every key there is, what it means and its default."""
    from magpie.recipe.commented import commented

    print_line(commented(recipe_from(name, sets=set_ or [])).rstrip("\n"))


def new(
    model: Annotated[
        str, typer.Argument(help="The generator: a hub id, a folder, or an embedded model such as demo.")
    ],
    out: Annotated[Path | None, typer.Option(help="The file to write; without it, it is printed.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many instructions to ask for.")] = 1000,
) -> None:
    """Write a short recipe for a model."""
    from magpie import api

    text = api.new(model, out, rows=rows)
    print_line(text.rstrip("\n") if out is None else f"{out} is written; build it: magpie build {out}")


def schema(
    what: Annotated[YamlKind, typer.Argument(help="What to describe.")] = YamlKind.recipe,
) -> None:
    """Print the JSON schema of recipes or filters, for editors that complete and check YAML."""
    from magpie.engines import engine_names
    from magpie.recipe.schema import filter_schema, recipe_schema

    schema = recipe_schema(engine_names()) if what is YamlKind.recipe else filter_schema()
    print_json(schema, indent=2)


def _list(items: list[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in items), default=0)
    for name, description in items:
        print_line(f"{name:<{width}}  {' '.join(description.split())}")
