"""Models of the hub: downloaded at a commit, or taken from the local cache when the hub cannot be reached."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import NoReturn

from magpie import secrets
from magpie.errors import ModelError
from magpie.models.embedded import EMBEDDED
from magpie.models.files import ModelFiles, check_names
from magpie.models.standins import STAND_INS
from magpie.recipe import Model

HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub's list of a model's files. Downloads have the hub client's own time limits."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
# A folder may hold the same weights in several formats; only one is loaded.
_TEXTS = ("*.json", "*.jinja", "*.txt", "*.model")
_DUPLICATES = ("consolidated*", "original/*", "onnx/*", "openvino/*", "*/onnx/*", "*/openvino/*")
_CANNOT_STORE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def from_hub(model: Model, *, weights: bool) -> ModelFiles:
    """The files of a hub model. `weights` as in `resolve`.

    Raises ModelError when the hub refuses it or has no such model, or cannot be reached and it is not in the cache.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = model.model
    if is_path(name):
        unknown(name, "there is no such folder or file")
    if not _HUB_ID.fullmatch(name):
        unknown(name, "it does not have the form of a hub id")
    # False, and not None, which would make the client use a token that was stored by a login.
    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=secrets.hub_token() or False)
    try:
        info = hub.model_info(name, revision=model.revision, timeout=HUB_TIMEOUT)
        # Before anything is downloaded.
        if weights:
            check_names(name, [file.rfilename for file in info.siblings or ()])
        # The cache names a snapshot's folder after its commit.
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
        unknown(name, "it does not have the form of a hub id")
    except RepositoryNotFoundError:
        unknown(name, "the hub does not know it; for a private model, set HF_TOKEN")
    except ImportError as error:
        # What httpx says of a socks proxy, for which it has no library.
        raise ModelError(
            f"the hub cannot be asked for {name} ({_first_line(error)}); name a proxy that begins with http:// in "
            "HTTPS_PROXY or ALL_PROXY, or unset it"
        ) from error
    except (HTTPError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _CANNOT_STORE:
            raise ModelError(
                f"cannot store {name} ({error.strerror}); make room, or set HF_HOME to another folder"
            ) from error
        return _from_hub_cache(model, weights=weights, reason=_first_line(error))


def is_path(name: str) -> bool:
    """Whether a model's name can only be meant as a place on this machine, such as ./model, /models/x or a/b/c."""
    return (
        name.startswith(("/", "./", "../", "~"))
        or "\\" in name
        or name.count("/") > 1
        or name.endswith(("/", ".gguf"))
    )


def _from_hub_cache(model: Model, *, weights: bool, reason: str) -> ModelFiles:
    """The model's files in the hub's cache on this machine, when the hub cannot be reached."""
    from huggingface_hub import snapshot_download

    patterns = _patterns(model, weights=weights)
    try:
        path = Path(
            snapshot_download(model.model, revision=model.revision, local_files_only=True, **patterns)
        )
    except (OSError, ValueError):
        unknown(model.model, f"the hub cannot be reached ({reason}), and not all of it is cached here")
    return ModelFiles(model.model, path, path.name)


def _patterns(model: Model, *, weights: bool) -> dict[str, list[str]]:
    """Which of a hub model's files to download."""
    code = ["*.py"] if model.trust_remote_code else []
    tensors = ["*.safetensors"] if weights else []
    return {"allow_patterns": [*_TEXTS, *tensors, *code], "ignore_patterns": [*_DUPLICATES]}


def unknown(name: str, reason: str) -> NoReturn:
    """Raise a ModelError that says what a model may be."""
    raise ModelError(
        f"no model {name!r}: {reason}. A model is a folder on this machine, a .gguf file, a hub id such as owner/name, "
        f"or an embedded model ({', '.join((*EMBEDDED, *STAND_INS))})"
    )


def _first_line(error: Exception) -> str:
    """The first line of an error, short enough for a message."""
    return secrets.redacted((str(error).strip() or type(error).__name__).splitlines()[0])[:160]
