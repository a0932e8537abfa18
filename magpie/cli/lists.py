"""The verbs that list what ships."""

from __future__ import annotations

import typer


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


def _list(items: list[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in items), default=0)
    for name, description in items:
        typer.echo(f"{name:<{width}}  {' '.join(description.split())}")
