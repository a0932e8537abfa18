"""The page `docs/recipes.md`: every key of a recipe, from the texts below the settings of this package.

`python -m magpie.recipe.page > docs/recipes.md` writes the page anew; a test holds it current.
"""

from __future__ import annotations

from collections.abc import Iterator

from magpie import shipped
from magpie.recipe.base import Part, part_in_type
from magpie.recipe.commented import meaning
from magpie.recipe.loading import load_recipe
from magpie.recipe.models import Model
from magpie.recipe.recipe import Recipe
from magpie.terminal import print_line

_OPENING = """# Recipes

A recipe is one YAML file. `magpie new MODEL` begins one, `magpie recipe FILE` prints it with every key and its meaning,
and an editor that reads `# yaml-language-server: $schema=...` in its first line completes and checks the keys as you
type (`magpie schema recipe` prints the schema). Only `name`, `rows` and the generator have no default. A section
that is `null` is off. One setting is changed with `--set A.B=VALUE`, such as `--set dedup.threshold=0.1`.

This page is made from the settings' own descriptions: `python -m magpie.recipe.page > docs/recipes.md` writes it anew.

## Recipes that ship

{shipped}
## Keys of a recipe

{keys}"""


def page() -> str:
    """The page."""
    listed = [(f"`{name}`", load_recipe(name).description) for name in shipped.names("recipes")]
    sections = [_section(name, part) for name, part in _parts(Recipe, "")]
    keys = _table(("key", "meaning"), _rows(Recipe))
    return _OPENING.format(shipped=_table(("recipe", "what it makes"), listed), keys=keys) + "".join(sections)


def _parts(part: type[Part], prefix: str) -> Iterator[tuple[str, type[Part]]]:
    """The parts within a part by the names of their keys, each before those within it."""
    for key, field in part.model_fields.items():
        inner = Model if key == "models" else part_in_type(field.annotation)
        if inner is not None:
            name = f"{prefix}{key}"
            yield name, inner
            yield from _parts(inner, f"{name}.")


def _section(name: str, part: type[Part]) -> str:
    about = " ".join((part.__doc__ or "").split())
    return f"\n## `{name}`\n\n{about}\n\n{_table(('key', 'meaning'), _rows(part))}"


def _rows(part: type[Part]) -> list[tuple[str, str]]:
    return [(f"`{key}`", meaning(field)) for key, field in part.model_fields.items()]


def _table(headings: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [headings, ("---", "---"), *rows]
    escaped = [[cell.replace("|", r"\|").replace("<", "&lt;") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


if __name__ == "__main__":
    print_line(page().rstrip("\n"))
