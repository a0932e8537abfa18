"""Where a model's files come from: a package, a stand-in made on this machine, a folder, a GGUF file, or the hub.

`resolve` returns a folder and its exact revision, or raises one clear ModelError. Only safetensors are ever loaded, and
an access token is read only from the environment (HF_TOKEN).
"""

from __future__ import annotations

from pathlib import Path

from magpie.errors import ModelError
from magpie.models.cache import cache_folder
from magpie.models.embedded import EMBEDDED, Embedded, from_package
from magpie.models.files import ModelFiles, check_weights, from_folder
from magpie.models.gguf import from_gguf, only_gguf
from magpie.models.hub import from_hub
from magpie.models.standins import STAND_INS, stand_in
from magpie.models.trust import check_code
from magpie.recipe import Model

__all__ = ["EMBEDDED", "STAND_INS", "Embedded", "ModelFiles", "cache_folder", "resolve"]


def resolve(model: Model, *, weights: bool = True) -> ModelFiles:
    """The files of `model`: downloaded, converted or made if they are not on this machine yet.

    With `weights` False, only the tokenizer and the config, which is quick. Raises ModelError when there is no model of
    that name, when the hub refuses or cannot be reached, or when the weights are not safetensors.
    """
    # Names of our own first: a folder that happens to be called "demo" must not replace the model.
    folder = _place(model.model)
    if model.model in EMBEDDED:
        files = _pinned(from_package(model.model, weights=weights), model.revision)
    elif model.model in STAND_INS:
        files = _pinned(stand_in(model.model, weights=weights), model.revision)
    elif folder.suffix == ".gguf" and folder.is_file():
        files = _pinned(from_gguf(model.model, folder.resolve(), weights=weights), model.revision)
    elif folder.is_dir():
        gguf = only_gguf(folder)
        if gguf is None:
            files = _pinned(from_folder(model.model, folder.resolve()), model.revision)
        else:
            files = _pinned(from_gguf(model.model, gguf.resolve(), weights=weights), model.revision)
    elif folder.is_file():
        raise ModelError(
            f"{model.model} is a file; give the folder that holds the model's config and safetensors"
        )
    else:
        files = from_hub(model, weights=weights)
    if weights:
        check_weights(files)
        if not model.trust_remote_code:
            check_code(files)
    return files


def _place(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ModelError(f"{name} is in a home folder, and there is none; write the path in full") from error


def _pinned(files: ModelFiles, wanted: str | None) -> ModelFiles:
    # Such a model is here in one revision only, and no other can be fetched.
    if wanted is not None and wanted != files.revision:
        raise ModelError(
            f"{files.name} is here at revision {files.revision}, and the recipe asks for {wanted}; "
            "bring that revision back, or take `revision` out of the recipe"
        )
    return files
