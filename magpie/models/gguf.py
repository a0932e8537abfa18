"""GGUF files, as people have them on their disks: converted once to a folder of safetensors in the cache."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

from magpie.errors import ModelError
from magpie.models.cache import cache_folder, made_once, quiet_transformers
from magpie.models.files import ModelFiles, add_to_digest

ORIGIN = "made_from.json"
"""The file in a converted folder that says what it was made from: the file, its licence, and where it is from."""

_log = logging.getLogger(__name__)
_MAGIC = b"GGUF"
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf\Z")
_KEPT = re.compile(
    r"general\.(?:name|author|organization|license.*|.*url|base_model.*|file_type|quantized_by)"
)


def only_gguf(folder: Path) -> Path | None:
    """The GGUF file of a folder that holds no other weights; None for other folders. Raises ModelError for several."""
    files = sorted(path for path in folder.glob("*.gguf") if path.is_file())
    if not files or any(folder.rglob("*.safetensors")):
        return None
    # A projector goes with a model that sees: it is none itself.
    models = [path for path in files if not path.name.startswith("mmproj")]
    if len(models) > 1 and not all(_PART.search(path.name) for path in models):
        names = ", ".join(path.name for path in models[:6])
        raise ModelError(f"the folder {folder} holds several models ({names}); give the path of one of them")
    return models[0] if models else files[0]


def from_gguf(name: str, file: Path, *, weights: bool) -> ModelFiles:
    """The model in a GGUF file, converted if it has not been. `weights` as in `resolve`. Raises ModelError."""
    check_gguf(file)
    digest = hashlib.blake2b(digest_size=8)
    try:
        add_to_digest(file, digest)
    except OSError as error:
        raise ModelError(f"cannot read {file} ({error.strerror}); check its permissions") from error
    # A name of letters that no system minds, and short.
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", file.stem).strip("-.")[:60] or "model"
    revision = f"gguf-{digest.hexdigest()}"
    whole = cache_folder() / f"{stem}-{revision}"
    if weights or whole.is_dir():
        return ModelFiles(name, made_once(whole, lambda to: _convert_aloud(file, to)), revision)
    tokenizer = whole.with_name(f"{whole.name}-tokenizer")
    return ModelFiles(name, made_once(tokenizer, lambda to: convert_tokenizer(file, to)), revision)


def check_gguf(file: Path) -> None:
    """Raise ModelError for a file that is no whole GGUF model."""
    if part := _PART.search(file.name):
        raise ModelError(
            f"{file} is part {int(part[1])} of {int(part[2])} of a model; join them first: "
            "llama-gguf-split --merge FIRST_PART WHOLE.gguf"
        )
    try:
        with file.open("rb") as opened:
            magic = opened.read(len(_MAGIC))
    except OSError as error:
        raise ModelError(f"cannot read {file} ({error.strerror}); check its permissions") from error
    if magic != _MAGIC:
        raise ModelError(f"{file} is no GGUF file, whatever its name says; fetch it again")


def _convert_aloud(file: Path, to: Path) -> None:
    size = file.stat().st_size
    _log.warning("converting %s (%.1f GB) to safetensors, once; this may take minutes", file.name, size / 1e9)
    convert(file, to)
    note_origin(file, to)
    _log.warning("converted %s: kept as %s", file.name, to.name.removeprefix(".").removesuffix(".unfinished"))


def convert(file: Path, to: Path) -> None:
    """Write a GGUF model as safetensors, in bfloat16, with its tokenizer and what is known of its origin."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    convert_tokenizer(file, to, config=False)
    with quiet_transformers():
        AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            local_files_only=True,
        ).save_pretrained(to)


def convert_tokenizer(file: Path, to: Path, *, config: bool = True) -> None:
    """Write the tokenizer of a GGUF model, and its config unless `config` is False."""
    from transformers import AutoConfig, AutoTokenizer

    with quiet_transformers():
        AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, local_files_only=True
        ).save_pretrained(to)
        if config:
            AutoConfig.from_pretrained(
                file.parent, gguf_file=file.name, local_files_only=True
            ).save_pretrained(to)


def note_origin(file: Path, to: Path) -> None:
    """Write down what a converted folder was made from: its licence goes with it."""
    from gguf import GGUFReader

    with quiet_transformers():
        fields = GGUFReader(file).fields
        known: dict[str, Any] = {key: field.contents() for key, field in fields.items() if _KEPT.match(key)}
    origin = {"file": file.name, "bytes": file.stat().st_size, **known}
    (to / ORIGIN).write_text(json.dumps(origin, indent=2, default=str) + "\n", encoding="utf-8")
