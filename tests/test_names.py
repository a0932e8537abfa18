"""A name out of a file becomes a path only where one function has passed it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from builds import small_recipe

from magpie import shipped
from magpie.build import build
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


REVISIONS = (
    "main", "v1.0.2", "refs/pr/12", "feature/gguf+q4", "a" * 40, "magpie-demo==0.3.1", "gguf-00ff", "2024-05-01",
)  # fmt: skip
NO_REVISIONS = (
    "", ".", "..", "../..", "a/../../b", "/etc", "a//b", "a/", "-x", "a b", "a\\b", "a\x00", "a\n", "~", "a..b", ".x/y",
    "a" * 201, "a:b", "x/.git", "\u202ea",
)  # fmt: skip


@pytest.mark.parametrize("name", [*REVISIONS, *NO_REVISIONS])
def test_a_revision_is_a_name_too(name: str) -> None:
    recipe = small_recipe().model_dump(mode="json")
    recipe["models"]["generator"] = {"model": "someone/model", "revision": name}
    if name in REVISIONS:
        assert load_recipe(recipe).models["generator"].revision == name
    else:
        with pytest.raises(RecipeError, match="revision"):
            load_recipe(recipe)


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_step_is_a_folder_of_the_run_and_a_split_is_none(tmp_path: Path, name: str) -> None:
    from magpie.data.published import Published
    from magpie.runs.run import numbered
    from magpie.steps import MAGPIE, steps_of

    step = steps_of(small_recipe(), MAGPIE)[0]
    odd = type("Odd", (type(step),), {"name": name})
    with pytest.raises(RecipeError, match="the name of the step"):
        numbered([object.__new__(odd)])
    for split in ("train", "test"):
        path = tmp_path / "set" / split / "rows.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text('{"instruction": "Why?", "response": "So."}\n')
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RecipeError, match="has no split"):
        Published(tmp_path / "set", name)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_benchmark_is_called_is_no_path(tmp_path: Path) -> None:
    """Its file's name stands in reasons and in the funnel; no file is named after it."""
    inputs, folder = tmp_path / "in", tmp_path / "out" / "run"
    inputs.mkdir()
    for name in ("..x;\n\x1b[2J.jsonl", "-rf ~.jsonl"):
        (inputs / name).write_text(
            '{"instruction": "How does one describe a wren at home in the rain today?"}\n'
        )
    recipe = small_recipe(rows=16, extend=None, decontaminate={"files": sorted(map(str, inputs.iterdir()))})
    run = build(recipe, folder)
    plain = build(small_recipe(rows=16, extend=None), tmp_path / "plain")
    number = next(step.number for step in run.steps if step.name == "decontaminate")
    known = {name.split("/")[-1] for name in plain.storage.names()}
    assert {name.split("/")[-1] for name in run.storage.names()} == known
    assert f"steps/{number:02d}-decontaminate/00000.parquet" in run.storage.names()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "plain"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run"]
