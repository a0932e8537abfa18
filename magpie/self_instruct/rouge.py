"""The filter of Self-Instruct: a text stays only if its ROUGE-L with every text before it is low enough.

`most_similar` and `average` are the `most_similar_instructions` and `avg_similarity_score` of the original's files. The
original compares every text with every earlier one in Python, about 6,500 pairs a second. Here RapidFuzz compares a
block of texts at once. Where only the decision is asked for, most pairs are never compared: too different in length, or
without a rare token in common.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from magpie.self_instruct.overlap import Encoded, Matrix, Vocabulary, common_lengths, f1, scores

OnProgress = Callable[[int, int], None]

THRESHOLD = 0.7
"""A text is rejected when its F1 with an earlier one is above this: the published setting."""

_BLOCK = 512  # texts that are compared at once
_COLUMNS = 16_384  # texts that they are compared with at once: the numbers of a block take 8 MB
_FEW = 1024  # of these, the highest are a first bound
_ROUGH = 1e-9  # more than rounding makes of a sum
_REORDERED = 4  # the index is made anew when the pool has grown by this


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


class RougeFilter:
    """Texts that were accepted, numbered from 0, and what is decided about the next ones.

    With `averages` every text is compared with the whole pool, so that the most similar ones and the mean are known;
    without, only as far as the decision needs it, and the decisions are the same. Memory grows with the pool: a few
    bytes for each token. `workers` are threads; all processors by default.
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
        self._vocabulary = Vocabulary()
        self._pool: list[Encoded] = []
        self._lengths = array("i")
        # For each element of a prefix (see `_prefix`), the texts of the pool that have it there.
        self._having: dict[tuple[str | int, int], array[int]] = {}
        self._reorder_at = _BLOCK

    def __len__(self) -> int:
        return len(self._pool)

    def add(self, texts: Sequence[str]) -> None:
        """Take texts into the pool as they are, such as seed tasks."""
        for text in texts:
            self._accept(self._vocabulary.encode(text))

    def screen(
        self, texts: Sequence[str], on_progress: OnProgress = lambda done, total: None
    ) -> list[Decision]:
        """Decide about texts in their order; each that is accepted counts for those after it."""
        decisions: list[Decision] = []
        for start in range(0, len(texts), _BLOCK):
            if not self._averages and len(self._pool) >= self._reorder_at:
                self._reorder()
            block = [self._vocabulary.encode(text) for text in texts[start : start + _BLOCK]]
            decisions += self._against_all(block) if self._averages else map(self._decided, block)
            on_progress(len(decisions), len(texts))
        return decisions

    def rewind(self, count: int) -> None:
        """Take the texts that came last out of the pool again, so that `count` are left."""
        for text in reversed(self._pool[count:]):
            if not self._averages:
                for element in self._prefix(text):
                    self._having[element].pop()  # the largest number stands last
        del self._pool[count:], self._lengths[count:]

    def _accept(self, text: Encoded) -> None:
        if not self._averages:
            self._index(len(self._pool), text)
        self._pool.append(text)
        self._lengths.append(len(text))

    # Only the decision

    def _decided(self, text: Encoded) -> Decision:
        candidates = self._candidates(text)
        if len(candidates):
            similar = f1([text], [self._pool[number] for number in candidates.tolist()], self._workers)[0]
            best = int(similar.argmax())
            if similar[best] > self.threshold:
                return Decision(False, ((int(candidates[best]), float(similar[best])),))
        self._accept(text)
        return Decision(True, ())

    def _candidates(self, text: Encoded) -> Matrix:
        """The texts of the pool, in order, that may have an F1 above the threshold."""
        lists = [self._having[element] for element in self._prefix(text) if element in self._having]
        if not lists:
            return np.empty(0, np.int32)
        found = np.unique(np.concatenate([np.frombuffer(numbers, np.int32) for numbers in lists]))
        lengths = np.frombuffer(self._lengths, np.int32)[found]
        # The shorter text can be common to both at the most.
        return found[scores(np.minimum(lengths, len(text)), lengths, len(text)) > self.threshold]

    def _prefix(self, text: Encoded) -> Iterator[tuple[str | int, int]]:
        """So many of a text's rarest tokens that a text with an F1 above the threshold has one of them in its own.

        A token that comes twice is two elements.
        """
        # F1 is 2c / (m + n) with c tokens in common, and n is at least c: so c is at least tm / (2 - t). If two texts
        # have c elements in common, and all elements one order, then the first m - c + 1 of both share one.
        least = math.ceil(self.threshold * len(text) / (2 - self.threshold) - 1e-9)
        # Any fixed order is right. High numbers are rare: of tokens seen since the last reordering, and before it.
        numbers = map(ord, text) if isinstance(text, str) else text
        times: dict[int, int] = {}
        for number in sorted(numbers, reverse=True)[: max(0, len(text) - least + 1)]:
            times[number] = times.get(number, 0) + 1
            yield number, times[number]

    def _index(self, number: int, text: Encoded) -> None:
        for element in self._prefix(text):
            self._having.setdefault(element, array("i")).append(number)

    def _reorder(self) -> None:
        """Order tokens by how rare they are in the pool now: fewer texts then share the rarest of theirs."""
        self._pool = self._vocabulary.by_rarity(self._pool)
        self._having.clear()
        for number, text in enumerate(self._pool):
            self._index(number, text)
        self._reorder_at = _REORDERED * len(self._pool)

    # Every pair

    def _against_all(self, block: list[Encoded]) -> list[Decision]:
        before = len(self._pool)
        lengths = np.frombuffer(self._lengths, np.int32).copy()  # the pool grows below
        best = [_Best(self._top) for _ in block]
        for start in range(0, before, _COLUMNS):
            common = common_lengths(block, self._pool[start : start + _COLUMNS], self._workers)
            for one, text, row in zip(best, block, common, strict=True):
                one.take(start, row, len(text), lengths[start : start + len(row)])
        within = common_lengths(block, block, self._workers)
        own_lengths = np.array([len(text) for text in block], np.int32)
        accepted: list[int] = []  # places in the block
        decisions = []
        for row, text in enumerate(block):
            best[row].take(before, within[row, accepted], len(text), own_lengths[accepted])
            count = before + len(accepted)
            similar = best[row].pairs()
            is_new = not similar or similar[0][1] <= self.threshold
            decisions.append(Decision(is_new, similar, best[row].sum / count if count else None))
            if is_new:
                accepted.append(row)
                self._accept(text)
        return decisions


class _Best:
    """The F1 of one text with others, given part by part: their sum, and the highest of them, of equals the first."""

    def __init__(self, top: int) -> None:
        self._top = top
        self.sum = 0.0
        self._places, self._values = np.empty(0, np.int64), np.empty(0)

    def take(self, first: int, common: Matrix, length: int, lengths: Matrix) -> None:
        """The next ones: what the text has in common with those from number `first` on, and the lengths of all."""
        # 2c / (m + n) is F1 but for the last digits: near enough for a sum, and to see which may be the highest.
        rough = common / np.maximum(length + lengths, 1)
        self.sum += 2 * float(rough.sum())
        bound = 0.0
        if len(self._values) == self._top:
            bound = self._values[-1] / 2
        elif len(rough) > 4 * self._top:
            # The highest of a few of them are no higher than those of all.
            bound = np.partition(rough[:_FEW], -self._top)[-self._top]
        at = np.flatnonzero(rough >= bound - _ROUGH)
        values = np.concatenate([self._values, scores(common[at], length, lengths[at])])
        places = np.concatenate([self._places, first + at])
        order = np.lexsort((places, -values))[: self._top]
        self._places, self._values = places[order], values[order]

    def pairs(self) -> tuple[tuple[int, float], ...]:
        """The numbers of the highest and their F1, the highest first."""
        return tuple(zip(self._places.tolist(), self._values.tolist(), strict=True))
