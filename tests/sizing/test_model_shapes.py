"""The shapes that ship, beside what transformers builds of the same config and what the models' makers say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from magpie import shipped
from magpie.recipe import Model
from magpie.recipe.loading import load_recipe
from magpie.recipe.reading import read_yaml
from magpie.sizing.shapes import ModelShape, shape_of

ENTRIES: list[dict[str, Any]] = read_yaml(shipped.folder("templates/models") / "shapes.yaml")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["source"])
def test_a_shape_has_the_weights_that_transformers_builds(entry: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    config = dict(entry["config"])
    kind, made_for = config.pop("model_type"), str(config.pop("architectures", "ForCausalLM"))
    scores = "SequenceClassification" in made_for or "RewardModel" in made_for
    loader = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    loader = AutoModel if kind in {"bert", "mpnet"} else loader
    with torch.device("meta"):
        built = loader.from_config(AutoConfig.for_model(kind, **config), dtype=torch.bfloat16)
    shape = ModelShape.from_config(entry["config"], "")
    assert shape is not None
    # Norms, biases, and an encoder's places and pooler are left out.
    slack = 0.03 if kind in {"bert", "mpnet"} else 0.001
    assert shape.parameters == pytest.approx(sum(each.numel() for each in built.parameters()), rel=slack)


@pytest.mark.parametrize(
    ("name", "billions", "cache"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8.03, 131_072),
        ("meta-llama/Meta-Llama-3-70B-Instruct", 70.6, 327_680),
        ("Qwen/Qwen3-8B", 8.19, 147_456),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", 30.5, 98_304),
        ("demo", 0.135, 23_040),
    ],
)
def test_makers_say_the_same(name: str, billions: float, cache: int) -> None:
    shape = shape_of(Model(model=name))
    assert shape is not None
    assert shape.parameters / 1e9 == pytest.approx(billions, rel=0.01)
    assert shape.cache_bytes(1) == cache


def test_a_mixture_of_experts_uses_a_few_of_its_weights() -> None:
    shape = shape_of(Model(model="Qwen/Qwen3-30B-A3B"))
    assert shape is not None and shape.active / 1e9 == pytest.approx(3.3, rel=0.1)


def test_layers_with_a_window_forget() -> None:
    shape = shape_of(Model(model="google/gemma-3-27b-it"))
    assert shape is not None and (shape.window, shape.windowed_layers) == (1024, 52)
    assert shape.cache_bytes(4096) < 4 * shape.cache_bytes(1024)


@pytest.mark.parametrize("name", ["-FP8", ""])
def test_a_name_says_how_large_a_weight_is(name: str) -> None:
    shape = shape_of(Model(model=f"Qwen/Qwen3-8B{name}"))
    assert shape is not None and shape.weight_bytes == (1 if name else 2)


def test_a_folders_own_config_comes_first(tmp_path: Path) -> None:
    config = {**ENTRIES[0]["config"], "num_hidden_layers": 2, "torch_dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = shape_of(Model(model=str(tmp_path), dtype="float32"))
    assert shape is not None
    assert (shape.layers, shape.weight_bytes, shape.source) == (2, 4, "its config.json")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_hidden_layers": "many"},
        {**ENTRIES[0]["config"], "kv_lora_rank": 512},  # latent attention keeps something else in its cache
        {**ENTRIES[0]["config"], "num_attention_heads": 0},
    ],
)
def test_what_it_cannot_read_is_unknown(config: dict[str, Any]) -> None:
    assert ModelShape.from_config(config, "") is None


def test_an_unknown_model_has_no_shape() -> None:
    assert shape_of(Model(model="nobody/nothing")) is None


@pytest.mark.parametrize("name", shipped.names("recipes"))
def test_every_model_of_a_shipped_recipe_has_a_shape(name: str) -> None:
    models = load_recipe(name).models.values()
    assert [model.model for model in models if shape_of(model) is None and model.model != "demo-guard"] == []
