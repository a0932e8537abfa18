"""The verbs that list what ships, and describe what people write."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer


class Written(StrEnum):
    """What people write in YAML."""

    recipe = "recipe"
    filter = "filter"


def templates() -> None:
    """List the chat templates that ship."""
    from magpie.chat import list_templates

    _list([(one.name, one.description) for one in list_templates()])


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


def schema(
    what: Annotated[Written, typer.Argument(help="What to describe.")] = Written.recipe,
) -> None:
    """Print the JSON schema of recipes or filters, for editors that complete and check YAML."""
    from magpie.engines import engine_names
    from magpie.recipe.schema import filter_schema, recipe_schema

    described = recipe_schema(engine_names()) if what is Written.recipe else filter_schema()
    typer.echo(json.dumps(described, indent=2, ensure_ascii=False))


def _list(items: list[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in items), default=0)
    for name, description in items:
        typer.echo(f"{name:<{width}}  {' '.join(description.split())}")
