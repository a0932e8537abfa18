"""A model's tokenizer, read as its files say.

transformers builds a tokenizer from the class that `tokenizer_config.json` names. Where that class and the folder's
`tokenizer.json` disagree, it reads the file wrongly: a Llama class over byte-level tokens, as in distillations of
DeepSeek's, loses every space. Such a tokenizer is read from its file alone, and a corrected copy of it is kept in the
cache for engines that load a tokenizer themselves. So is one that is there in Mistral's own format only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magpie.errors import ModelError
from magpie.models.cache import cache_folder, made_once, quiet_transformers

# What classes read differently: digits, spaces and lines, apostrophes, other scripts.
_PROBES = (
    "Tell me: what's 12345.67 + 89 (in %)?\n\n  def f(x):\n\treturn x  # it's ok, isn't it",
    "Größe, naïve, 你好吗, مرحبا بك, 🐦 and 2024-07-26; the end of it.",
)
_TEKKEN = "tekken.json"
_TEKKEN_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_OTHER_FILES = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True, slots=True)
class OpenedTokenizer:
    """A tokenizer of transformers, the folder that an engine is to load it from, and what there is to say of it."""

    tokenizer: Any
    folder: Path
    notes: tuple[str, ...] = ()


def open_tokenizer(folder: Path, name: str, *, trust_remote_code: bool = False) -> OpenedTokenizer:
    """The tokenizer in a model's folder. Raises ModelError."""
    with _as_model_error(folder, name):
        if not any((folder / file).is_file() for file in _OTHER_FILES) and (folder / _TEKKEN).is_file():
            return _from_tekken(folder)
        tokenizer = _load(folder, trust_remote_code=trust_remote_code)
        if (folder / "tokenizer.json").is_file() and not (trust_remote_code and _has_own_code(folder)):
            return _checked(tokenizer, folder)
    return OpenedTokenizer(tokenizer, folder)


def _load(folder: Path, *, trust_remote_code: bool = False) -> Any:
    from transformers import AutoTokenizer

    # Where vLLM is installed, Mistral's own tokenizer is, too, and would be used for a folder that has its file. It has
    # no chat template.
    return AutoTokenizer.from_pretrained(
        folder, trust_remote_code=trust_remote_code, local_files_only=True, mistral_format=False
    )


def _checked(tokenizer: Any, folder: Path) -> OpenedTokenizer:
    """The tokenizer, or the one of its file where its class reads the file otherwise."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return OpenedTokenizer(tokenizer, folder)
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_truncation()
    own.no_truncation()
    if not _differ(backend, own) or (_spells(backend) and not _spells(own)):
        return OpenedTokenizer(tokenizer, folder)
    tokenizer_class = type(tokenizer).__name__
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    note = (
        f"the tokenizer's class, {tokenizer_class}, does not fit its tokenizer.json, which is read as it stands; "
        "a corrected copy is given to the engine"
    )
    copy = made_once(_place_of_copy(folder), lambda to: tokenizer.save_pretrained(to) and None)
    return OpenedTokenizer(tokenizer, copy, (note,))


def _from_tekken(folder: Path) -> OpenedTokenizer:
    """The tokenizer of Mistral's own format, its tokens named: transformers does not say which one begins a text."""

    def convert(to: Path) -> None:
        # transformers warns of a fault that other files of these models have, and these have not.
        with quiet_transformers():
            tokenizer = _load(folder)
        for role, token in _TEKKEN_TOKENS.items():
            if (
                getattr(tokenizer, role) is None
                and tokenizer.backend_tokenizer.token_to_id(token) is not None
            ):
                setattr(tokenizer, role, token)
        tokenizer.save_pretrained(to)

    # Converting takes half a minute.
    copy = made_once(_place_of_copy(folder), convert)
    note = f"the tokenizer is read from {_TEKKEN}, and a copy in the usual format is given to the engine"
    return OpenedTokenizer(_load(copy), copy, (note,))


def _place_of_copy(folder: Path) -> Path:
    """The folder in the cache for a copy of the tokenizer in a model's folder."""
    digest = hashlib.blake2b(digest_size=12)
    for path in sorted(folder.glob("*")):
        is_its = path.suffix in {".json", ".jinja"} and not path.name.endswith(".index.json")
        if is_its and path.is_file():
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return cache_folder() / "tokenizers" / digest.hexdigest()


def _differ(backend: Any, own: Any) -> bool:
    """Whether two tokenizers read text differently, but for the space that some put before all of it."""
    for probe in _PROBES:
        ids, own_ids = (one.encode(probe, add_special_tokens=False).ids for one in (backend, own))
        half = min(len(ids), len(own_ids)) // 2
        if ids[-half:] != own_ids[-half:]:
            return True
    added = own.get_added_tokens_decoder().items()
    return any(backend.token_to_id(token.content) != number for number, token in added)


def _spells(backend: Any) -> bool:
    """Whether texts come back as they were, but for space around them."""
    texts = (
        backend.decode(backend.encode(probe, add_special_tokens=False).ids, skip_special_tokens=False)
        for probe in _PROBES
    )
    return all(text.strip() == probe for text, probe in zip(texts, _PROBES, strict=True))


def _has_own_code(folder: Path) -> bool:
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(settings, dict) and "auto_map" in settings


@contextmanager
def _as_model_error(folder: Path, name: str) -> Iterator[None]:
    try:
        yield
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # the tokenizers' own library raises plain exceptions
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"the tokenizer of {name} cannot be loaded ({reason}); check {folder}") from error
