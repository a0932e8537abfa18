"""Embedding models: sentence-transformers, on a GPU where there is one.

With an engine that loads no files there is no model: vectors are computed from the words of a text.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magpie import machine
from magpie.engines import find_engine
from magpie.errors import ModelError
from magpie.recipe import Model
from magpie.text import folded, normal
from magpie.text import words as words_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Vectors = np.ndarray[Any, np.dtype[np.float32]]

SCRIPTED_DIMENSIONS = 64

_BATCH = 128
_READ_AT_ONCE = 10_000
BETTER_EMBEDDER = "BAAI/bge-m3"
"""An embedder that reads 100 languages, and texts of 8,192 tokens: for those that another one cannot read."""


def encode(encoder: SentenceTransformer | None, texts: Sequence[str], *, batch_size: int) -> Vectors:
    """The vectors of texts (texts, dimensions), of length 1; `scripted_vectors` where there is no encoder.

    Texts are read in the form in which they are compared: the same text, written in two ways, has one vector. Raises
    ModelError when a vector is zero or not finite.
    """
    if not texts:
        return np.empty((0, 1), np.float32)
    if encoder is None:
        return unit(scripted_vectors(texts))
    # sentence-transformers sorts by length itself, so that a batch needs little padding.
    vectors = encoder.encode(
        [normal(text) for text in texts],
        batch_size=batch_size,
        show_progress_bar=False,
        convert_to_numpy=True,
    )
    return unit(np.asarray(vectors, np.float32))


def encode_all(model: Model, texts: Sequence[str]) -> Vectors:
    """The vectors of texts, by a model that is loaded for this call. Raises ModelError."""
    return encode(load_encoder(model), texts, batch_size=_BATCH)


def unread_parts(model: Model, texts: Iterable[str]) -> list[str]:
    """For each text a digest of what the embedder cannot read of it, "" where it reads all of it.

    That is words which its tokenizer does not know, and what comes after the most tokens that it takes. Vectors say
    nothing about these: only texts with equal digests may be compared by distance. Raises ModelError.
    """
    remaining = iter(texts)
    tokenizer, longest = _reader_of(model)
    spots: list[str] = []
    while batch := [normal(text) for text in islice(remaining, _READ_AT_ONCE)]:
        if tokenizer is None:
            spots += [""] * len(batch)
            continue
        for text, read in zip(batch, tokenizer.encode_batch(batch, add_special_tokens=False), strict=True):
            spots.append(_digest_of_unread(text, read, longest, tokenizer.unknown))
    return spots


def unit(vectors: Vectors) -> Vectors:
    """The vectors (rows), scaled to length 1. Raises ModelError when one is zero or not finite."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ModelError(
            "the embedder gave a vector that is zero or not finite; set its `dtype` to float32, or use another embedder"
        )
    return np.asarray(vectors / lengths, np.float32)


def load_encoder(model: Model) -> SentenceTransformer | None:
    """The sentence-transformers model, on the model's `device`; None where the engine loads no files.

    Raises ModelError.

    It reads the first `context_length` tokens of a text, or as many as it was trained for where that is less.
    `dtype: auto` is bfloat16 where the hardware computes in it, else float32.
    """
    if not find_engine(model.engine).capabilities.loads_files:
        return None
    from sentence_transformers import SentenceTransformer

    from magpie.models import resolve

    files = resolve(model)
    try:
        _check_tensors(files.path, model)
        with _no_progress_bars():
            encoder = SentenceTransformer(
                str(files.path),
                local_files_only=True,
                device="cpu" if model.device == "cpu" else None,
                trust_remote_code=model.trust_remote_code,
                model_kwargs={"dtype": _dtype(model), "use_safetensors": True},
            )
        longest = encoder.max_seq_length
        # Infinity is that of static embeddings, which read texts of any length at no cost.
        if longest is None or model.context_length < longest < math.inf:
            encoder.max_seq_length = model.context_length
        return encoder
    except ModelError:
        raise
    except Exception as error:  # the reader of safetensors, for one, has errors of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{model.model} cannot be loaded as an embedder ({reason}); name an embedding model"
        ) from error


def _check_tensors(folder: Path, model: Model) -> None:
    """Raise ModelError where tensors of the model are in none of its files: sentence-transformers takes random ones."""
    from transformers import AutoConfig, AutoModel

    from magpie.models.cache import quiet_transformers

    folder, _ = _first_module(folder)
    options = {"local_files_only": True, "trust_remote_code": model.trust_remote_code}
    if (
        not (folder / "config.json").is_file()
        or AutoConfig.from_pretrained(folder, **options).is_encoder_decoder
    ):
        return  # static embeddings; and only one half of such a model is used
    with quiet_transformers():
        # On the meta device nothing is read but the names of tensors.
        _, loaded = AutoModel.from_pretrained(
            folder, output_loading_info=True, device_map="meta", use_safetensors=True, **options
        )
    # Many embedders were saved without the pooler, which they do not use.
    missing = {name for name in loaded["missing_keys"] if "pooler" not in name}
    if missing:
        raise ModelError(
            f"{model.model} lacks {len(missing)} of its tensors, {min(missing)} among them: they would be random; "
            "check that the weights belong to the config, or name another embedder"
        )


def scripted_vectors(texts: Sequence[str]) -> Vectors:
    """A vector for each text without a model, SCRIPTED_DIMENSIONS wide and not yet of length 1.

    Each word has a direction, given by a hash of the word, and a text is the sum of its words: equal texts have equal
    vectors, texts that share most words are near, and others are not.
    """
    words_of_texts = [words_of(text) or [text] for text in texts]
    if not words_of_texts:
        return np.empty((0, SCRIPTED_DIMENSIONS), np.float32)
    # Each word is hashed once: texts have many words, and most of them in common.
    numbers: dict[str, int] = {}
    which = [numbers.setdefault(word, len(numbers)) for words in words_of_texts for word in words]
    digests = b"".join(
        hashlib.blake2b(word.encode(), digest_size=SCRIPTED_DIMENSIONS // 8).digest() for word in numbers
    )
    # Each bit of the hash is -1 or 1 in one dimension. `reduceat` adds up the words of each text.
    bits = np.unpackbits(np.frombuffer(digests, np.uint8)).reshape(-1, SCRIPTED_DIMENSIONS)
    starts = np.cumsum([0, *(len(words) for words in words_of_texts[:-1])])
    sums = np.add.reduceat(bits.astype(np.float32)[which] * 2 - 1, starts)
    # Words that cancel each other out would leave a vector without a direction.
    sums[~sums.any(axis=1), 0] = 1
    return np.asarray(sums, np.float32)


class _Tokenizer:
    """The embedder's own tokenizer, without its limit."""

    def __init__(self, backend: Any, unknown: int | None) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.encode_batch, self.unknown = backend.encode_batch, unknown


def _reader_of(model: Model) -> tuple[_Tokenizer | None, int]:
    """The embedder's tokenizer, and how many tokens of a text it reads; None where nothing escapes it."""
    if not find_engine(model.engine).capabilities.loads_files:
        return None, 0
    from transformers import AutoTokenizer

    from magpie.models import resolve

    files = resolve(model, weights=False)
    folder, most = _first_module(files.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError):
        return None, 0  # static embeddings and bags of words have none of transformers' tokenizers
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None, 0
    longest = min(model.context_length, most or tokenizer.model_max_length)
    return _Tokenizer(backend, tokenizer.unk_token_id), longest - tokenizer.num_special_tokens_to_add()


def _first_module(folder: Path) -> tuple[Path, int | None]:
    """The folder of the module that reads the text, and the most tokens that its settings name."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8-sig"))
        inside = folder / modules[0]["path"]
        folder = inside if (inside / "tokenizer_config.json").is_file() else folder
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass  # a plain transformers folder is an embedder too
    try:
        most = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8-sig"))[
            "max_seq_length"
        ]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return folder, None
    return folder, most if isinstance(most, int) else None


def _digest_of_unread(text: str, read: Any, longest: int, unknown: int | None) -> str:
    ids, offsets = read.ids, read.offsets
    beyond = text[offsets[longest - 1][1] :] if len(ids) > longest else ""
    unread = [text[slice(*offsets[at])] for at in range(min(len(ids), longest)) if ids[at] == unknown]
    # A smile or a rare mark that is not known changes no meaning: only words do.
    missed = [*(word for piece in unread for word in words_of(piece)), folded(beyond.strip())]
    if not any(missed):
        return ""
    return hashlib.blake2b("\0".join(missed).encode(), digest_size=16).hexdigest()


def _dtype(model: Model) -> Any:
    import torch

    if model.dtype != "auto":
        return getattr(torch, model.dtype)
    if torch.cuda.is_available() and model.device != "cpu":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # On a CPU with AVX512-BF16 it is 2.5 times as fast as float32, and moves each vector by a squared distance of
        # about 1e-4.
        has_bfloat16 = machine.computes_in_bfloat16() and not torch.backends.mps.is_available()
    return torch.bfloat16 if has_bfloat16 else torch.float32


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Turn transformers' progress bars off while weights are loaded."""
    from transformers.utils import logging

    were_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_enabled:
            logging.enable_progress_bar()
