"""Evaluation sets as a step compares with them: their n-grams, and the digest of their content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from magpie.recipe import Decontaminate
from magpie.steps.base import Instructions
from magpie.text import words as words_of

_FEWEST_WORDS = 5  # of a text that is looked for inside instructions: "what is the time" is part of many


class NGrams:
    """The n-grams of some texts: `length` neighbouring words, in lower case and without punctuation."""

    def __init__(self, texts: Sequence[str], length: int) -> None:
        self._text_of: dict[str, int] = {}  # an n-gram: the first text that contains it
        self._lengths: dict[str, set[int]] = {}  # a word: the lengths of the n-grams that begin with it
        self._phrases: dict[str, int] = {}  # a text that is compared as a whole: its number
        for number, text in enumerate(texts):
            words = words_of(text)
            size = min(length, len(words))
            # An n-gram that is set shorter than that is what the user wants: then no text is too short for it.
            if size < min(length, _FEWEST_WORDS):
                self._phrases.setdefault(" ".join(words), number)
                continue
            for start in range(len(words) - size + 1):
                self._text_of.setdefault(" ".join(words[start : start + size]), number)
                self._lengths.setdefault(words[start], set()).add(size)

    def first_in(self, text: str) -> tuple[int, str] | None:
        """The first n-gram of `text` that is among these: the number of the text it is from, and its words."""
        words = words_of(text)
        whole = " ".join(words)
        if words and whole in self._phrases:
            return self._phrases[whole], whole
        # Most words begin no n-gram, and most others begin n-grams of one length: few strings are joined and looked up.
        for start, word in enumerate(words):
            for size in sorted(self._lengths.get(word, ()), reverse=True):
                gram = " ".join(words[start : start + size])
                # Near the end of the text the slice is shorter than `size`, and may be equal to a shorter n-gram.
                if start + size <= len(words) and gram in self._text_of:
                    return self._text_of[gram], gram
        return None


def digest_of(dataset: Instructions) -> str:
    """A digest of all its questions, for fingerprints."""
    # Without later turns it is the digest alone: runs that were made before those were compared go on.
    return dataset.digest if dataset.later_digest is None else f"{dataset.digest}+{dataset.later_digest}"


def found_in(places: Any, part: Decontaminate) -> list[str]:
    """For each place, FILE:LINE: the words, or null, the evaluation set that it is in."""
    # The longest first: the name of one may begin that of another.
    names = sorted((str(name) for name in part.files), key=len, reverse=True)
    return [_set_of(place, names) for place in places.to_pylist()]


def _set_of(place: str | None, names: Sequence[str]) -> str:
    if place is None:
        return "in no evaluation set"
    name = next((name for name in names if place.startswith(f"{name}:")), place.partition(":")[0])
    return f"in {name}"
