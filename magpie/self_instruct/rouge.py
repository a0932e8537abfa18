"""The filter of Self-Instruct: a text stays only if its ROUGE-L with every text before it is low enough.

ROUGE-L is the F1 of the longest common subsequence of two texts' tokens, as Google's `rouge_score` computes it without
a stemmer: tokens are runs of a-z and 0-9 of the lower-cased text, and two texts of which one has no token have 0.
`most_similar` and `average` are the `most_similar_instructions` and `avg_similarity_score` of the original's files.

The original compares every text with every earlier one in Python, about 6,500 pairs a second. Here tokens are numbers,
and RapidFuzz finds the subsequences of a block of texts at once. Where only the decision is asked for, most pairs are
never compared: too different in length, or without a rare token in common.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Matrix = np.ndarray[Any, Any]
OnProgress = Callable[[int, int], None]

THRESHOLD = 0.7
"""A text is rejected when its F1 with an earlier one is above this: the published setting."""

_TOKEN = re.compile(r"[a-z0-9]+")
_BLOCK = 512  # texts that are compared at once
_COLUMNS = 16_384  # texts that they are compared with at once: the numbers of a block take some 100 MB


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about one text.

    `most_similar` are (number of the earlier text, F1), the most similar first: the one for which the text was
    rejected, or the ten of the original where every pair was compared. `average` is the mean F1 with all texts that
    were in the pool before it; None unless every pair was compared, and where there was none.
    """

    accepted: bool
    most_similar: tuple[tuple[int, float], ...]
    average: float | None = None


def tokens(text: str) -> list[str]:
    """The tokens of `rouge_score`."""
    return _TOKEN.findall(text.lower())


class RougeFilter:
    """Texts that were accepted, numbered from 0, and what is decided about the next ones.

    With `averages` every text is compared with the whole pool, so that the most similar ones and the mean are known;
    without, only as far as the decision needs it, and the decisions are the same. Memory grows with the pool: a number
    for each token. `workers` are threads; all processors by default.
    """

    def __init__(
        self,
        threshold: float = THRESHOLD,
        *,
        averages: bool = False,
        top: int = 10,
        workers: int | None = None,
    ) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"a threshold is above 0 and at most 1, not {threshold}")
        self.threshold = threshold
        self._averages, self._top, self._workers = averages, top, workers
        self._numbers: dict[str, int] = {}
        self._pool: list[list[int]] = []
        self._lengths = array("i")
        # For each element of a prefix (see `_prefix`), the texts of the pool that have it there.
        self._having: dict[tuple[int, int], array[int]] = {}

    def __len__(self) -> int:
        return len(self._pool)

    def add(self, texts: Sequence[str]) -> None:
        """Take texts into the pool as they are, such as seed tasks."""
        for text in texts:
            self._accept(self._encoded(text))

    def screen(
        self, texts: Sequence[str], on_progress: OnProgress = lambda done, total: None
    ) -> list[Decision]:
        """Decide about texts in their order; each that is accepted counts for those after it."""
        decisions: list[Decision] = []
        for start in range(0, len(texts), _BLOCK):
            block = [self._encoded(text) for text in texts[start : start + _BLOCK]]
            decisions += self._against_all(block) if self._averages else map(self._decided, block)
            on_progress(len(decisions), len(texts))
        return decisions

    def rewind(self, count: int) -> None:
        """Take the texts that came last out of the pool again, so that `count` are left."""
        for numbers in reversed(self._pool[count:]):
            if not self._averages:
                for element in self._prefix(numbers):
                    self._having[element].pop()  # the largest number stands last
        del self._pool[count:], self._lengths[count:]

    def _encoded(self, text: str) -> list[int]:
        numbers = self._numbers
        return [numbers.setdefault(token, len(numbers)) for token in tokens(text)]

    def _accept(self, numbers: list[int]) -> None:
        if not self._averages:
            for element in self._prefix(numbers):
                self._having.setdefault(element, array("i")).append(len(self._pool))
        self._pool.append(numbers)
        self._lengths.append(len(numbers))

    # Only the decision

    def _decided(self, numbers: list[int]) -> Decision:
        candidates = self._candidates(numbers)
        if len(candidates):
            similar = self._f1([numbers], [self._pool[number] for number in candidates])[0]
            best = int(similar.argmax())
            if similar[best] > self.threshold:
                return Decision(False, ((int(candidates[best]), float(similar[best])),))
        self._accept(numbers)
        return Decision(True, ())

    def _candidates(self, numbers: list[int]) -> Matrix:
        """The texts of the pool, in order, that may have an F1 above the threshold."""
        lists = [self._having[element] for element in self._prefix(numbers) if element in self._having]
        if not lists:
            return np.empty(0, np.int32)
        found = np.unique(np.concatenate([np.frombuffer(numbers, np.int32) for numbers in lists]))
        lengths = np.frombuffer(self._lengths, np.int32)[found]
        # The shorter text can be common to both at the most.
        return found[_scores(np.minimum(lengths, len(numbers)), lengths, len(numbers)) > self.threshold]

    def _prefix(self, numbers: list[int]) -> Iterator[tuple[int, int]]:
        """So many of a text's rarest tokens that a text with an F1 above the threshold has one of them in its own.

        A token that comes twice is two elements.
        """
        # F1 is 2c / (m + n) with c tokens in common, and n is at least c: so c is at least tm / (2 - t). If two texts
        # have c elements in common, and all elements one order, then the first m - c + 1 of both share one.
        least = math.ceil(self.threshold * len(numbers) / (2 - self.threshold) - 1e-9)
        # A token that was seen late is rare, as a rule. Any fixed order is right; this one needs no second look at
        # texts that were there before.
        ordered = sorted(numbers, reverse=True)
        times: dict[int, int] = {}
        for number in ordered[: max(0, len(ordered) - least + 1)]:
            times[number] = times.get(number, 0) + 1
            yield number, times[number]

    # Every pair

    def _against_all(self, block: list[list[int]]) -> list[Decision]:
        before = len(self._pool)
        sums = np.zeros(len(block))
        most: list[tuple[Matrix, Matrix]] = [(np.empty(0, np.int64), np.empty(0))] * len(block)
        for start in range(0, before, _COLUMNS):
            similar = self._f1(block, self._pool[start : start + _COLUMNS])
            sums += similar.sum(axis=1)
            for row, values in enumerate(similar):
                most[row] = self._best(most[row], np.arange(start, start + len(values)), values)
        within = self._f1(block, block)
        accepted: list[int] = []  # places in the block
        decisions = []
        for row, numbers in enumerate(block):
            own = within[row, accepted]
            places, values = self._best(most[row], before + np.arange(len(accepted)), own)
            count = before + len(accepted)
            average = float((sums[row] + own.sum()) / count) if count else None
            is_new = not len(values) or bool(values[0] <= self.threshold)
            decisions.append(
                Decision(is_new, tuple(zip(places.tolist(), values.tolist(), strict=True)), average)
            )
            if is_new:
                accepted.append(row)
                self._accept(numbers)
        return decisions

    def _best(self, earlier: tuple[Matrix, Matrix], places: Matrix, values: Matrix) -> tuple[Matrix, Matrix]:
        """The most similar of those found earlier and of these, the most similar first; of equals, the first."""
        if len(values) > self._top:  # the others need no sorting
            kept = np.sort(np.argpartition(values, -self._top)[-self._top :])
            # Equals of the least that is kept: the first of them, whichever the partition took.
            least = values[kept].min()
            kept = np.union1d(kept, np.flatnonzero(values == least)[: self._top])
            places, values = places[kept], values[kept]
        places, values = np.concatenate([earlier[0], places]), np.concatenate([earlier[1], values])
        order = np.lexsort((places, -values))[: self._top]
        return places[order], values[order]

    def _f1(self, rows: list[list[int]], columns: list[list[int]]) -> Matrix:
        """The F1 of each row with each column."""
        from rapidfuzz.distance import LCSseq
        from rapidfuzz.process import cdist

        # To start threads takes longer than to compare one text with its few candidates.
        workers = 1 if len(rows) == 1 else self._workers or -1
        common = cdist(rows, columns, scorer=LCSseq.similarity, dtype=np.int32, workers=workers)
        row_lengths = np.array([len(row) for row in rows], np.int32)[:, None]
        return _scores(common, row_lengths, np.array([len(column) for column in columns], np.int32))


def _scores(common: Matrix, one: Any, other: Any) -> Matrix:
    """F1 from the length of the common subsequence and the lengths of both texts, term by term as in `rouge_score`."""
    # The same operations in the same order give the same float, and so the same side of the threshold.
    precision, recall = common / np.maximum(one, 1), common / np.maximum(other, 1)
    both = precision + recall
    found: Matrix = np.divide(2 * precision * recall, both, out=np.zeros(both.shape), where=both > 0)
    return found
