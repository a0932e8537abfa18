"""Licences, by hub name."""

from __future__ import annotations

import pytest

from magpie import shipped
from magpie.models.licences import licence_of
from magpie.recipe.loading import load_recipe


@pytest.mark.parametrize(
    ("model", "hub", "free"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3", False),
        ("meta-llama/Meta-Llama-3-70B-Instruct", "llama3", False),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama3.1", False),
        ("meta-llama/Llama-3.1-70B-Instruct", "llama3.1", False),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama3.3", False),
        ("google/gemma-3-27b-it", "gemma", False),
        ("Qwen/Qwen3-8B", "apache-2.0", True),
        ("Qwen/Qwen2.5-7B-Instruct", "apache-2.0", True),
        ("microsoft/phi-4", "mit", True),
        ("demo", "apache-2.0", True),
    ],
)
def test_a_known_family(model: str, hub: str, free: bool) -> None:
    licence = licence_of(model)
    assert licence is not None and (licence.hub, licence.free) == (hub, free)
    assert licence.link.startswith("https://") and licence.asks.endswith(".") and licence.read.year >= 2026


@pytest.mark.parametrize(
    "model", ["nobody/nothing", "google/gemma-4-26b", "Qwen/Qwen2.5-72B-Instruct", "./folder", ""]
)
def test_an_unknown_one_stays_unknown(model: str) -> None:
    assert licence_of(model) is None


def test_every_model_of_a_shipped_recipe_has_a_known_licence() -> None:
    for name in shipped.names("recipes"):
        for model in load_recipe(name).models.values():
            assert licence_of(model.model) is not None, model.model


def test_every_model_of_the_apache_recipe_is_under_it() -> None:
    found = {licence_of(model.model) for model in load_recipe("air-apache").models.values()}
    assert [licence.hub for licence in found if licence is not None] == ["apache-2.0"]
