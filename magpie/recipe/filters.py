"""Loads filters: a file, the name of one that ships, or the filter of a recipe file."""

from __future__ import annotations

from pathlib import Path

from magpie import shipped
from magpie.errors import RecipeError
from magpie.names import fitting_name
from magpie.recipe.filter import Filter
from magpie.recipe.problems import validate
from magpie.recipe.reading import read_yaml


def load_filter(source: str | Path, *, origin: str | None = None) -> Filter:
    """Load a filter from a YAML file, or the shipped filter of that name. Of a recipe file, load its `filter`.

    `origin` is the recipe that names the filter, if one does; then `source` must not be a recipe. Raises RecipeError.
    """
    path = shipped.find("filters", str(source))
    if path is None:
        names = ", ".join(shipped.names("filters"))
        named_by = f"{origin}: " if origin else ""
        raise RecipeError(f"{named_by}no filter {str(source)!r}; give a YAML file or one of: {names}")
    raw, where = read_yaml(path), str(source)
    if origin is None and isinstance(raw, dict) and "models" in raw:
        raw, where = raw.get("filter"), f"the filter of {source}"
        if raw is None:
            raise RecipeError(
                f"{source} is a recipe without a filter; give a filter file, or add `filter` to it"
            )
        if isinstance(raw, str):
            return load_filter(raw, origin=str(source))
    if isinstance(raw, list):
        raw = {"rules": raw}
    if isinstance(raw, dict):
        raw = {"name": fitting_name(path.stem, otherwise="filter"), **raw}
    return validate(Filter, raw, where)
