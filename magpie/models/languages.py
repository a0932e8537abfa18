"""Names the language of texts, with lingua's models, which come in its wheel."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lingua import LanguageDetector

_BLOCK = 64  # texts that are detected at once
_building = threading.Lock()  # two shards in two threads would each build a detector of more than a gigabyte


def detect(texts: list[str]) -> Iterator[str | None]:
    """The language of each text, as an ISO 639-1 code, or None."""
    detector = load()
    # In small blocks: lingua works on all cores but lets no other Python thread run meanwhile, and those that feed an
    # engine must not wait long.
    for start in range(0, len(texts), _BLOCK):
        for language in detector.detect_languages_in_parallel_of(texts[start : start + _BLOCK]):
            yield None if language is None else language.iso_code_639_1.name.lower()


def load() -> LanguageDetector:
    """Lingua with its whole models: about 1.2 GB, kept until `unload`."""
    with _building:
        return _detector()


def unload() -> None:
    """Give the memory back."""
    # Lingua keeps its models in a place of its own: without `unload_language_models` they would outlive the detector.
    with _building:
        if _detector.cache_info().currsize:
            _detector().unload_language_models()  # type: ignore[no-untyped-call]
        _detector.cache_clear()


@cache
def _detector() -> LanguageDetector:
    from lingua import LanguageDetectorBuilder

    # Its low-accuracy mode is three times as fast in 0.1 GB, and takes "What is the capital of France?" for German.
    return LanguageDetectorBuilder.from_all_languages().with_preloaded_language_models().build()
