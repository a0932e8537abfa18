"""The shape of a model: how many weights it has, and how much of the KV cache a token takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from magpie import shipped
from magpie.recipe import Model
from magpie.recipe.reading import read_yaml

_BYTES = {"float32": 4.0, "float": 4.0, "bfloat16": 2.0, "float16": 2.0, "half": 2.0}
_UNREAD = (
    "kv_lora_rank",
    "ssm_cfg",
    "mamba_d_state",
    "linear_num_key_heads",
    "encoder_layers",
    "attn_type_list",
)
"""Keys of configs of another build than is counted here: latent attention, state spaces, encoder and decoder."""
_UNGATED = {"bert", "mpnet", "roberta", "xlm-roberta", "gpt2", "gpt_neox", "phi", "opt"}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a config.json says of a model.

    `parameters` are all its weights, `active` those that one token goes through (fewer for a mixture of experts), both
    without the input embeddings where those are a table of their own. `weight_bytes` is the size of one weight.
    `source` says where it is from.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    parameters: int
    active: int
    weight_bytes: float
    source: str
    window: int = 0
    windowed_layers: int = 0

    @property
    def weights(self) -> float:
        """The size of all weights, in bytes."""
        return self.parameters * self.weight_bytes

    def cache_bytes(self, tokens: float) -> float:
        """What `tokens` of one conversation take in the KV cache, in bytes; layers with a window forget the rest."""
        one_layer = 2 * self.kv_heads * self.head_dim * 2  # keys and values, in 16 bits
        seen = min(tokens, self.window) if self.window else tokens
        return one_layer * ((self.layers - self.windowed_layers) * tokens + self.windowed_layers * seen)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str, dtype: str = "auto") -> ModelShape | None:
        """The shape that a config.json gives; None for a kind of model that is not counted here."""
        text = config.get("text_config")
        inner = {**config, **text} if isinstance(text, Mapping) else dict(config)
        if any(inner.get(key) for key in _UNREAD):
            return None
        try:
            return _read(inner, source, dtype)
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None


def shape_of(model: Model) -> ModelShape | None:
    """The shape of a recipe's model; None where nothing here says what it is.

    Looked for in its folder, in the hub's cache on this machine, and among the shapes that ship. Asks no hub.
    """
    for path in _own_configs(model):
        try:
            config = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(config, dict):
            return ModelShape.from_config(config, "its config.json", model.dtype)
    for entry in _shipped_shapes():
        if any(fnmatchcase(model.model, pattern) for pattern in entry["models"]):
            config = {**entry["config"], **_quantized(model.model)}
            return ModelShape.from_config(config, f"config.json of {entry['source']}", model.dtype)
    return None


def shape_in(folder: Path, dtype: str = "auto") -> ModelShape | None:
    """The shape of the model in a folder; None where its config cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return ModelShape.from_config(config, "its config.json", dtype) if isinstance(config, dict) else None


def _own_configs(model: Model) -> list[Path]:
    folder = Path(model.model).expanduser()
    if folder.is_dir():
        return [folder / "config.json"]
    if model.model.count("/") != 1:
        return []
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model.model, "config.json", revision=model.revision)
    except HFValidationError:
        return []
    return [Path(cached)] if isinstance(cached, str) else []


@cache
def _shipped_shapes() -> list[dict[str, Any]]:
    shapes: list[dict[str, Any]] = read_yaml(shipped.folder("templates/models") / "shapes.yaml")
    return shapes


def _quantized(name: str) -> dict[str, Any]:
    """What the name of a hub model says of its weights, where only that is known."""
    ending = name.rpartition("-")[2].lower()
    method = {"fp8": "fp8", "awq": "awq", "gptq": "gptq"}.get(ending)
    return {} if method is None else {"quantization_config": {"quant_method": method}}


def _read(config: Mapping[str, Any], source: str, dtype: str) -> ModelShape:
    layers, hidden, heads = (
        int(config[key]) for key in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or hidden // heads)
    intermediate, vocabulary = int(config["intermediate_size"]), int(config["vocab_size"])
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    matrices = 2 if config.get("model_type") in _UNGATED else 3
    all_mlp = used_mlp = matrices * hidden * intermediate
    experts = int(config.get("num_experts") or config.get("num_local_experts") or 0)
    if experts:
        width = int(config.get("moe_intermediate_size") or intermediate)
        router = hidden * experts
        all_mlp = experts * matrices * hidden * width + router
        used_mlp = int(config["num_experts_per_tok"]) * matrices * hidden * width + router
    table, head = vocabulary * hidden, _head(config, vocabulary * hidden)
    window, windowed = _window(config, layers)
    return ModelShape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=intermediate,
        vocabulary=vocabulary,
        parameters=layers * (attention + all_mlp) + table + head,
        # A token looks its embedding up, and is multiplied with the output matrix, which may be the same one.
        active=layers * (attention + used_mlp) + (table if _writes(config) else 0),
        weight_bytes=_weight_bytes(config, dtype),
        source=source,
        window=window,
        windowed_layers=windowed,
    )


def _writes(config: Mapping[str, Any]) -> bool:
    """Whether the model has an output matrix over its vocabulary: scorers and embedders have none."""
    made_for = " ".join(config.get("architectures") or ["ForCausalLM"])
    return "ForCausalLM" in made_for or "ForConditionalGeneration" in made_for


def _head(config: Mapping[str, Any], table: int) -> int:
    """The weights of an output matrix of its own. Unsaid, the families with a tied one say so by their type."""
    tied = config.get("tie_word_embeddings", str(config.get("model_type", "")).startswith("gemma"))
    return 0 if tied or not _writes(config) else table


def _window(config: Mapping[str, Any], layers: int) -> tuple[int, int]:
    """The attention window of the layers that have one, and how many layers that is."""
    window = int(config.get("sliding_window") or 0)
    if not window or config.get("use_sliding_window") is False:
        return 0, 0
    if types := config.get("layer_types"):
        return window, sum(kind == "sliding_attention" for kind in types)
    every = int(config.get("sliding_window_pattern") or 0)
    return (window, layers - layers // every) if every else (window, layers)


def _weight_bytes(config: Mapping[str, Any], dtype: str) -> float:
    """The size of a weight, in bytes."""
    quantization = config.get("quantization_config")
    if isinstance(quantization, Mapping):
        method = str(quantization.get("quant_method", ""))
        bits = quantization.get("bits") or quantization.get("num_bits")
        # Four bits come with scales for every group of weights.
        return 1.0 if "fp8" in method else {4: 0.56, 8: 1.06}.get(int(bits or 4), 1.06)
    stated = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    wanted = str(stated if dtype == "auto" else dtype).removeprefix("torch.")
    # Weights stored in 32 bits are loaded in 16, as vLLM does by default.
    return _BYTES.get("bfloat16" if dtype == "auto" and wanted == "float32" else wanted, 2.0)
