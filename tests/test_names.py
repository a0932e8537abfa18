"""A name out of a file becomes a path only where one function has passed it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from builds import small_recipe

from magpie import shipped
from magpie.errors import RecipeError
from magpie.names import file_name, fitting_name
from magpie.recipe.loading import load_filter, load_recipe

NO_NAMES = (
    "", ".", "..", "../../other/dataset", "/tmp/x", "a/b", "a\\b", "a\x00b", "a\nb", " a", "a.", "a ", ".hidden", "-x",
    "a" * 101, "ä" * 60, "con", "NUL.txt", "\u202ea", "~", "a:b", "a  b",
)  # fmt: skip
NAMES = ("demo", "air-300k", "My Filter", "v1.2_x", "фильтр", "a" * 100)


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError):
        file_name(name)
    path = tmp_path / "f.yaml"
    path.write_text(yaml.safe_dump({"name": name, "rules": []}))
    with pytest.raises(RecipeError, match="`name`"):
        load_filter(path)
    recipe = small_recipe().model_dump(mode="json")
    for changes in ({"name": name}, {"filter": {"name": name}}):
        path.write_text(yaml.safe_dump(recipe | changes))
        with pytest.raises(RecipeError, match="name`"):
            load_recipe(path)
    assert shipped.find("filters", f"../{name}/demo") is None


@pytest.mark.parametrize("name", NAMES)
def test_what_is_a_name(tmp_path: Path, name: str) -> None:
    assert file_name(name) == name
    path = tmp_path / f"{name}.yaml"
    path.write_text("rules: []")
    assert load_filter(path).name == name


@pytest.mark.parametrize("text", [name for name in NO_NAMES if name])
def test_a_file_of_any_name_gives_a_filter_a_name(text: str) -> None:
    assert file_name(fitting_name(text, otherwise="filter"))
