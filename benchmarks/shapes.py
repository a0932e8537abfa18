"""Models with the shape of known ones and random weights: a model's speed needs no sense in what it writes.

Tokenizers are those of the demo models, or of folders that are named: nothing else is read from these.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from magpie.models import ModelFiles, resolve
from magpie.recipe import Model

LLAMA_3_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0",  # without it transformers warns of a tokenizer of Mistral's
}
"""Llama-3-8B's published configuration, as far as it decides the speed."""

SMALL = LLAMA_3_8B | {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
"""A model that is written and loaded in seconds, where it does not matter how fast it is."""

SHAPES = {"llama-3-8b": LLAMA_3_8B, "small": SMALL}

_TOKENIZER = ("tokenizer", "special_tokens", "vocab", "merges", "chat_template")


def make_shape(folder: Path, shape: dict[str, Any], tokenizer: Path | None = None) -> ModelFiles:
    """A model folder with this configuration and no weights: vLLM makes them up with `load_format="dummy"`.

    The tokenizer gets made-up tokens up to the shape's vocabulary, so that every id is a text, as a real model's is.
    """
    _copy_tokenizer(tokenizer or resolve(Model(model="demo"), weights=False).path, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    taken = {*vocabulary.values(), *(token["id"] for token in content["added_tokens"])}
    vocabulary |= {f"x{number}": number for number in range(shape["vocab_size"]) if number not in taken}
    path.write_text(json.dumps(content), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    return ModelFiles("shape", folder, "local")


def add_weights(folder: Path) -> None:
    """Random weights for the model folder's configuration, in its `torch_dtype`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder)
    AutoModelForCausalLM.from_config(config, dtype=config.dtype).save_pretrained(folder)


def make_embedder(folder: Path, like: Path) -> Path:
    """An embedder with the shape of the one in the folder `like`, and random weights."""
    import torch
    from transformers import AutoConfig, AutoModel

    shutil.copytree(like, folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def _copy_tokenizer(source: Path, folder: Path) -> None:
    for path in source.iterdir():
        if path.name.startswith(_TOKENIZER):
            shutil.copy(path, folder / path.name)
