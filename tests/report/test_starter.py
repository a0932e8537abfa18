"""The first recipe for a model: it loads, plans, and says what is published for its family."""

from __future__ import annotations

import pytest

from magpie.plan import make_plan
from magpie.recipe import Recipe
from magpie.recipe.loading import parse_recipe
from magpie.recipe.reading import parse_yaml
from magpie.report.starter import name_for, starter

MODELS = (
    "demo", "Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B-Instruct", "./my models/A b.gguf", "/models/x/", "ünï: #1", "yes",
)  # fmt: skip


def loaded(text: str) -> Recipe:
    return parse_recipe(parse_yaml(text.encode(), "new"))


@pytest.mark.parametrize("model", MODELS)
def test_it_is_a_recipe_for_that_model(model: str) -> None:
    recipe = loaded(starter(model, rows=7))
    assert (recipe.models["generator"].model, recipe.rows) == (model, 7)
    assert recipe.models["judge"] == recipe.models["generator"]
    make_plan(recipe)


def test_the_lines_that_are_commented_out_work_too() -> None:
    text = starter("demo")
    for line in ("  judge: generator", "  embedder: demo-embedder", "filter: balanced"):
        indent = len(line) - len(line.lstrip())
        mark = f"{line[:indent]}# {line[indent:]}"
        assert mark in text
        text = text.replace(mark, line)
    recipe = loaded(text)
    assert recipe.filter is not None and recipe.filter.name == "balanced"
    make_plan(recipe)


def test_what_is_published_for_the_family_is_in_it() -> None:
    recipe = loaded(starter("meta-llama/Llama-3.1-8B-Instruct"))
    assert recipe.instruct.hold_back == ("#", "##", "###", "####", "**")
    assert "stop_at_newline=false" in starter("demo")  # where nothing is published, the reader is told


@pytest.mark.parametrize(
    ("model", "name"),
    [("Qwen/Qwen3-8B", "qwen3-8b"), ("./A b.gguf", "a-b"), ("..", "new"), ("/", "new"), ("模型", "new"), ("../x", "x")],
)  # fmt: skip
def test_a_name_is_made_from_the_models(model: str, name: str) -> None:
    assert name_for(model) == name
