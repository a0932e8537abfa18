"""How much of two texts' words comes in one order: ROUGE-L, many pairs at a time.

ROUGE-L is the F1 of the longest common subsequence of two texts' tokens, as Google's `rouge_score` computes it without
a stemmer: tokens are runs of a-z and 0-9 of the lower-cased text, and two texts of which one has no token have 0.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

Matrix = np.ndarray[Any, Any]
Encoded = str | list[int]
"""The numbers of a text's tokens: as code points, or as numbers where there are more than code points."""

_TOKEN = re.compile(r"[a-z0-9]+")
_ROWS = 512  # texts that are compared at once
_BYTES = "utf-32-le"  # of the four bytes of a code point


def tokens(text: str) -> list[str]:
    """The tokens of `rouge_score`."""
    return _TOKEN.findall(text.lower())


class Vocabulary:
    """A number for each token."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def encode(self, text: str) -> Encoded:
        """The numbers of its tokens; new ones get the next numbers."""
        known, found = self._numbers, tokens(text)
        numbers: list[Any] = list(map(known.get, found))
        if None in numbers:
            numbers = [known.setdefault(token, len(known)) for token in found]
        # A string is read as it lies in memory; of a list, every entry would have to be looked at first.
        return numbers if len(known) > sys.maxunicode else "".join(map(chr, numbers))

    def by_rarity(self, texts: list[Encoded]) -> list[Encoded]:
        """Number the tokens anew, the rarest of these texts last; the texts in the new numbers."""
        whole = "".join(text for text in texts if isinstance(text, str))
        if len(self._numbers) > sys.maxunicode or len(whole) != sum(map(len, texts)):
            return texts
        codes = np.frombuffer(whole.encode(_BYTES, "surrogatepass"), np.uint32)
        counts = np.bincount(codes, minlength=len(self._numbers))
        number_of = np.empty(len(counts), np.uint32)
        number_of[np.argsort(-counts, kind="stable")] = np.arange(len(counts), dtype=np.uint32)
        self._numbers = {token: int(number_of[number]) for token, number in self._numbers.items()}
        renumbered = number_of[codes].tobytes().decode(_BYTES, "surrogatepass")
        found: list[Encoded] = []
        at = 0
        for text in texts:
            found.append(renumbered[at : at + len(text)])
            at += len(text)
        return found


def nearest_f1(texts: Sequence[str], others: Sequence[str], *, workers: int | None = None) -> Matrix:
    """For each text its F1 with the most similar of the others: float64, one for each text; 0 where there are none."""
    vocabulary = Vocabulary()
    rows, columns = ([vocabulary.encode(text) for text in each] for each in (texts, others))
    best = np.zeros(len(rows))
    for start in range(0, len(rows) if columns else 0, _ROWS):
        block = rows[start : start + _ROWS]
        best[start : start + len(block)] = f1(block, columns, workers).max(axis=1)
    return best


def f1(rows: Sequence[Encoded], columns: Sequence[Encoded], workers: int | None) -> Matrix:
    """The F1 of each row with each column."""
    row_lengths = np.array([len(row) for row in rows], np.int32)[:, None]
    column_lengths = np.array([len(column) for column in columns], np.int32)
    return scores(common_lengths(rows, columns, workers), row_lengths, column_lengths)


def common_lengths(rows: Sequence[Encoded], columns: Sequence[Encoded], workers: int | None) -> Matrix:
    """The length of the longest common subsequence of each row with each column. `workers` None are all processors."""
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cdist

    # To start threads takes longer than to compare one text with its few candidates.
    threads = 1 if len(rows) == 1 else workers or -1
    longest = max(map(len, rows), default=0)
    kind = np.uint8 if longest < 256 else np.int32  # fewer bytes to write and to read
    found: Matrix = cdist(rows, columns, scorer=LCSseq.similarity, dtype=kind, workers=threads)
    return found


def scores(common: Matrix, one: Any, other: Any) -> Matrix:
    """F1 from the length of the common subsequence and the lengths of both texts, term by term as in `rouge_score`."""
    # The same operations in the same order give the same float, and so the same side of the threshold.
    precision, recall = common / np.maximum(one, 1), common / np.maximum(other, 1)
    both = precision + recall
    found: Matrix = np.divide(2 * precision * recall, both, out=np.zeros(both.shape), where=both > 0)
    return found
