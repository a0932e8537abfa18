"""The files of a model on this machine: which ones they are, and whether its weights can be loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from magpie.errors import ModelError

_MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
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
        raise ModelError(f"the folder {name} holds no model: none of {', '.join(_MODEL_FILES)} is in it")
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        # Hidden files are not the model's: a hub client, for example, keeps its bookkeeping in `.cache`.
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            digest.update(f"{inside.as_posix()}\0{path.stat().st_size}\0".encode())
            try:
                _digest_file(path, digest)
            except OSError as error:
                raise ModelError(f"cannot read {path} ({error.strerror}); check its permissions") from error
    return ModelFiles(name, folder, f"local-{digest.hexdigest()}")


def _digest_file(path: Path, digest: hashlib.blake2b) -> None:
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


def holds_gguf(files: ModelFiles) -> bool:
    """Whether the weights are a GGUF file."""
    return any(files.path.glob("*.gguf"))


def check_weights(files: ModelFiles) -> None:
    """Raise ModelError when weights are not safetensors, or files of them are missing."""
    names = [path.name for path in files.path.rglob("*") if path.is_file()]
    check_names(files.name, names)
    index = files.path / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{files.name}: {index.name} is not an index of weights; fetch it again") from error
    if missing := sorted(parts.difference(names)):
        raise ModelError(
            f"{files.name} lacks {len(missing)} of its {len(parts)} weight files, {missing[0]} among them; "
            "fetch it again"
        )


def check_names(name: str, files: list[str]) -> None:
    """Raise ModelError when none of a model's files is in safetensors, by their names."""
    if any(file.endswith(".safetensors") for file in files):
        return
    other = next((file for file in files if file.endswith(_PICKLES) or file.endswith(".gguf")), None)
    only = f"its weights are not safetensors ({other})" if other else "it holds no weights"
    raise ModelError(f"{name} cannot be loaded: {only}; give a model whose weights are safetensors")
