"""The files of a model on this machine: which ones they are, and whether its weights can be loaded."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from magpie.errors import ModelError
from magpie.text import printable

_MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_POINTER, _LONGEST_POINTER = b"version https://git-lfs", 1024
_READ_WHOLE = 8 << 20
_HEAD = 1 << 20
_BLOCKS, _BLOCK = 64, 64 << 10


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model's files are, and which ones exactly.

    `name` is the model's name in the recipe, `path` a local folder. `revision` is the hub's commit, the package and its
    version, a stand-in's name and a digest of its ingredients, or "local-" and a digest of the folder: of its files'
    names, sizes and contents, with samples only of files above 8 MiB.
    """

    name: str
    path: Path
    revision: str


def from_folder(name: str, folder: Path) -> ModelFiles:
    """The model in a folder on this machine. Raises ModelError when the folder holds none, or cannot be read."""
    if not any((folder / name).is_file() for name in _MODEL_FILES):
        _check_no_adapter(name, folder)
        raise ModelError(f"the folder {name} holds no model: none of {', '.join(_MODEL_FILES)} is in it")
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        # Hidden files are not the model's: a hub client, for example, keeps its bookkeeping in `.cache`.
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            digest.update(f"{inside.as_posix()}\0{path.stat().st_size}\0".encode())
            try:
                add_to_digest(path, digest)
            except OSError as error:
                raise ModelError(f"cannot read {path} ({error.strerror}); check its permissions") from error
    return ModelFiles(name, folder, f"local-{digest.hexdigest()}")


def add_to_digest(path: Path, digest: hashlib.blake2b) -> None:
    """Add a file to `digest`: all of it up to 8 MiB, else its beginning and 64 blocks spread evenly up to its end."""
    # Reading all of a large model takes minutes. Training changes every tensor, so a checkpoint that replaces another
    # of the same size differs in any block.
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _READ_WHOLE:
            digest.update(file.read())
            return
        digest.update(file.read(_HEAD))
        for number in range(_BLOCKS):
            file.seek(_HEAD + number * (size - _HEAD - _BLOCK) // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))


def check_weights(files: ModelFiles) -> None:
    """Raise ModelError when weights are not safetensors, are those of an adapter, or files of them are missing."""
    folder = files.path
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    _check_no_adapter(files.name, files.path)
    check_names(files.name, names)
    index = folder / "model.safetensors.index.json"
    parts = _parts_by_index(files, index) if index.is_file() else _parts_by_name(names)
    if missing := sorted(parts.difference(names)):
        raise ModelError(
            f"{files.name} lacks {len(missing)} of its {len(parts)} weight files, {missing[0]} among them; "
            "fetch it again"
        )
    for path in (path for path in folder.glob("*.safetensors") if path.is_file()):
        if path.stat().st_size < _LONGEST_POINTER and path.read_bytes().startswith(_POINTER):
            raise ModelError(f"{path} only points to the weights; run `git lfs pull` in that folder")


def _parts_by_index(files: ModelFiles, index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(f"{files.name}: {index.name} is not an index of weights; fetch it again") from error


def _parts_by_name(names: list[str]) -> set[str]:
    """The files that must be there by the names of those that are: each says how many there are."""
    parts = [match for name in names if (match := _PART.fullmatch(name))]
    return {
        f"{part[1]}-{number:05d}-of-{part[3]}.safetensors"
        for part in parts
        for number in range(1, int(part[3]) + 1)
    }


def _check_no_adapter(name: str, folder: Path) -> None:
    settings = folder / "adapter_config.json"
    own = [path for path in folder.rglob("*.safetensors") if not path.name.startswith("adapter_")]
    if own or not (settings.is_file() or any(folder.glob("adapter_model.*"))):
        return
    try:
        base = json.loads(settings.read_text(encoding="utf-8-sig"))["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        base = None
    of = f" of {printable(str(base))[:100]}" if base else ""
    raise ModelError(
        f"{name} holds only an adapter (LoRA){of}, which is no model by itself; merge the two and give the "
        "merged folder: peft.AutoPeftModelForCausalLM.from_pretrained(ADAPTER).merge_and_unload()"
        ".save_pretrained(FOLDER)"
    )


def check_names(name: str, files: list[str]) -> None:
    """Raise ModelError when none of a model's files is in safetensors, by their names."""
    if any(file.endswith(".safetensors") for file in files):
        return
    other = next((file for file in files if file.endswith((*PICKLES, ".gguf"))), None)
    if other is None:
        has = "it holds a tokenizer and no weights" if _is_tokenizer(files) else "it holds no weights"
    else:
        has = f"its weights are not safetensors ({other})"
    raise ModelError(f"{name} cannot be loaded: {has}; give a model whose weights are safetensors")


def _is_tokenizer(files: list[str]) -> bool:
    return bool({"tokenizer.json", "tokenizer.model", "tokenizer_config.json"}.intersection(files))
