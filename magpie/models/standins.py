"""Stand-ins for models that no package ships: a reward model and a guard, made on this machine on first use.

With them every step of a recipe runs without the hub. `demo-reward` is the demo model with a score head of random
weights: its rewards differ between conversations and mean nothing. `demo-guard` knows a few dozen words and nothing
else; see `keyword_guard.py`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from magpie.models.cache import cache_folder, made_once
from magpie.models.embedded import from_package
from magpie.models.files import ModelFiles
from magpie.models.keyword_guard import guard_ingredients, make_guard

_BASE = "demo"
_HEAD: dict[str, Any] = {"version": 1, "seed": 20_240_612, "scale": 0.004}
"""The random score head. At this scale rewards lie between -0.2 and 0.2, and bfloat16 moves them by about 0.01."""


def stand_in(name: str, *, weights: bool) -> ModelFiles:
    """The files of the stand-in called `name`, made if they do not exist.

    Its revision is its name and a digest of its ingredients. Raises ModelError where the package it is made from is
    missing, or the cache cannot be written.
    """
    return STAND_INS[name](name, weights)


def _reward(name: str, weights: bool) -> ModelFiles:
    """With the weights, or perhaps without them where `weights` is False."""
    # The weights take a few seconds and 270 MB, so there is a folder without them, as for the base model.
    base = from_package(_BASE, weights=weights)
    revision = f"{name}-{_digest({**_HEAD, 'base': base.revision})}"
    whole = cache_folder() / revision
    if weights or whole.is_dir():
        return ModelFiles(name, made_once(whole, lambda to: _make_reward(base.path, to)), revision)
    tokenizer = whole.with_name(f"{revision}-tokenizer")
    made = made_once(tokenizer, lambda to: _make_reward_tokenizer(base.path, to))
    return ModelFiles(name, made, revision)


def _guard(name: str, weights: bool) -> ModelFiles:
    """With the weights always: they are small."""
    revision = f"{name}-{_digest(guard_ingredients())}"
    return ModelFiles(name, made_once(cache_folder() / revision, make_guard), revision)


STAND_INS: dict[str, Callable[[str, bool], ModelFiles]] = {"demo-reward": _reward, "demo-guard": _guard}
"""The function that makes each stand-in, by name. It takes the name and whether weights are wanted."""


def _digest(ingredients: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(ingredients).encode(), digest_size=6).hexdigest()


def _make_reward_tokenizer(base: Path, to: Path) -> None:
    """The base model's tokenizer, and its config changed to that of a reward model."""
    for path in base.iterdir():
        if path.suffix != ".safetensors" and path.name not in {"config.json", "generation_config.json"}:
            shutil.copyfile(path, to / path.name)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config |= {
        "architectures": ["LlamaForSequenceClassification"],
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
    }
    (to / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _make_reward(base: Path, to: Path) -> None:
    """The same with weights: those of the base model, and a random score head for the last hidden state."""
    import torch
    from safetensors.torch import load_file, save_file

    _make_reward_tokenizer(base, to)
    tensors = load_file(base / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    # Seeded: every machine makes the same model, so its revision needs no digest of the weights.
    generator = torch.Generator().manual_seed(_HEAD["seed"])
    head = torch.randn(1, embedding.shape[1], generator=generator) * _HEAD["scale"]
    tensors["score.weight"] = head.to(embedding.dtype)
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
