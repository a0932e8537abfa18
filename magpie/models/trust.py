"""Code that a model's folder would run: refused before anything is loaded, unless the recipe trusts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from magpie.errors import ModelError
from magpie.models.files import PICKLES, ModelFiles
from magpie.text import printable

_ADVICE = "use another model, or set `trust_remote_code: true` for it if you trust its authors"


def check_code(files: ModelFiles) -> None:
    """Raise ModelError where loading the model would run code of its own, or read a pickle, which is code too."""
    _check_modules(files)
    config = read_settings(files.path / "config.json")
    own_code = config.get("auto_map")
    if isinstance(own_code, dict) and own_code and not _is_known(config.get("model_type")):
        raise ModelError(f"{files.name} needs Python code that comes with it ({_first(own_code)}); {_ADVICE}")


def read_settings(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none, which is for the library that loads it to say."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _check_modules(files: ModelFiles) -> None:
    """The modules of a sentence-transformers model: all must be that library's own, and none a pickle."""
    listed = files.path / "modules.json"
    if not listed.is_file():
        return
    try:
        modules = [(str(module["type"]), str(module["path"])) for module in json.loads(listed.read_bytes())]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ModelError(f"{listed} is no list of modules; fetch the model again") from error
    for kind, path in modules:
        if not kind.startswith("sentence_transformers."):
            raise ModelError(
                f"{files.name} names a module of its own, {printable(kind)[:80]}, whose code would be run; {_ADVICE}"
            )
        folder = files.path / path
        if not folder.resolve().is_relative_to(files.path.resolve()):
            raise ModelError(
                f"{files.name} names a module outside its folder, {printable(path)[:80]}; {_ADVICE}"
            )
        held = [file.name for file in folder.glob("*") if file.is_file()]
        pickle = next(
            (name for name in sorted(held) if name.endswith(PICKLES) and "training" not in name), None
        )
        if pickle is not None and not any(name.endswith(".safetensors") for name in held):
            raise ModelError(
                f"{files.name} keeps weights in a pickle, {printable(str(Path(path) / pickle))}, which may run code; "
                "use a model whose weights are safetensors"
            )


def _is_known(model_type: Any) -> bool:
    """Whether transformers has code of its own for models of this type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return model_type in CONFIG_MAPPING_NAMES


def _first(own_code: dict[str, Any]) -> str:
    return printable(str(next(iter(own_code.values()))))[:80]
