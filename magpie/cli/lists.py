"""The commands that list what ships with magpie, and that describe recipe and filter files."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

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
