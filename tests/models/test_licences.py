"""Licences, by hub name."""

from __future__ import annotations

from pathlib import Path

import pytest

from magpie import shipped
from magpie.models.licences import licence_by_key, licence_of
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
    assert (
        licence.link.startswith("https://")
        and licence.asks.endswith(".")
        and licence.read is not None
        and licence.read.year >= 2026
    )


@pytest.mark.parametrize("model", ["nobody/nothing", "google/gemma-4-26b", "./folder", ""])
def test_an_unknown_one_stays_unknown(model: str) -> None:
    assert licence_of(model) is None


def test_every_model_of_a_shipped_recipe_has_a_known_licence() -> None:
    for name in shipped.names("recipes"):
        for model in load_recipe(name).models.values():
            assert licence_of(model.model) is not None, model.model


def test_every_model_of_the_apache_recipe_is_under_it() -> None:
    found = {licence_of(model.model) for model in load_recipe("air-apache").models.values()}
    assert [licence.hub for licence in found if licence is not None] == ["apache-2.0"]


def test_a_licence_that_the_hub_has_no_key_for_has_a_name_and_a_link() -> None:
    licence = licence_of("Qwen/Qwen2.5-72B-Instruct")
    assert licence is not None
    assert (licence.hub, licence.short, licence.key) == ("other", "qwen", "qwen")
    assert licence_by_key("qwen") is licence
    for name in shipped.names("templates/licences"):
        known = licence_by_key(name)
        assert known is not None, name  # each file is named after its key
        assert (known.hub == "other") == (known.short is not None)


@pytest.mark.parametrize(
    ("front", "key"),
    [
        ("license: mit", "mit"),
        ("license: [llama3.1]", "llama3.1"),
        ("license: other\nlicense_name: qwen\nlicense_link: https://example.org", "qwen"),
        ("license: other\nlicense_name: ours\nlicense_link: https://example.org", "ours"),
        ("license: cc-by-nc-4.0", "cc-by-nc-4.0"),
        ("license: other", None),
        ("license: [mit, apache-2.0]", None),
        ("license: unknown", None),
        ("license: {", None),
        ("language: en", None),
    ],
)
def test_a_models_own_card_is_read(tmp_path: Path, front: str, key: str | None) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n# A model\n", encoding="utf-8")
    licence = licence_of(str(tmp_path))
    assert (None if licence is None else licence.key) == key


def test_a_models_own_card_says_more_than_its_name(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    licence = licence_of("meta-llama/Meta-Llama-3-8B-Instruct", tmp_path)
    assert licence is not None
    assert licence.hub == "mit"
