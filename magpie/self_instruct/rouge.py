"""The filter of Self-Instruct: a text stays only if its ROUGE-L with every text before it is low enough.

`most_similar` and `average` are the `most_similar_instructions` and `avg_similarity_score` of the original's files. The
original compares every text with every earlier one in Python, about 6,500 pairs a second. Here RapidFuzz compares a
block of texts at once. Where only the decision is asked for, most pairs are never compared: too different in length, or
without a rare token in common.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from magpie.self_instruct.overlap import Encoded, Matrix, Vocabulary, common_lengths, scores

OnProgress = Callable[[int, int], None]
Element = str | int | tuple[str | int, int]
"""A token in a prefix, with how many times it has come there where that is more than once."""

THRESHOLD = 0.7
"""A text is rejected when its F1 with an earlier one is above this: the published setting."""

_BLOCK = 512  # texts that are compared at once
_COLUMNS = 8192  # texts that they are compared with at once: the numbers of a block take some 50 MB
_FEW = 512  # of these, the highest are a first bound
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
        self._having: dict[Element, array[int]] = {}
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

    def _accept(self, text: Encoded, elements: Sequence[Element] | None = None) -> None:
        if not self._averages:
            self._index(len(self._pool), self._prefix(text) if elements is None else elements)
        self._pool.append(text)
        self._lengths.append(len(text))

    # Only the decision

    def _decided(self, text: Encoded) -> Decision:
        elements = self._prefix(text)
        candidates = self._candidates(text, elements)
        if len(candidates):
            lengths = np.frombuffer(self._lengths, np.int32)[candidates]
            pool = self._pool
            common = common_lengths([text], [pool[number] for number in candidates.tolist()], 1)[0]
            # Without the last digits first: hardly any text comes near.
            at = np.flatnonzero(common >= (self.threshold / 2 - _ROUGH) * (lengths + len(text)))
            similar = scores(common[at], len(text), lengths[at])
            best = int(similar.argmax()) if len(at) else 0
            if len(at) and similar[best] > self.threshold:
                return Decision(False, ((int(candidates[at[best]]), float(similar[best])),))
        self._accept(text, elements)
        return Decision(True, ())

    def _candidates(self, text: Encoded, elements: Sequence[Element]) -> Matrix:
        """The texts of the pool, in order, that may have an F1 above the threshold."""
        having = self._having
        lists = [np.frombuffer(having[element], np.int32) for element in elements if element in having]
        if not lists:
            return np.empty(0, np.int32)
        found = np.unique(np.concatenate(lists)) if len(lists) > 1 else lists[0].copy()
        lengths = np.frombuffer(self._lengths, np.int32)[found]
        # The shorter text can be common to both at the most.
        share = self.threshold / (2 - self.threshold) - _ROUGH
        return found[(lengths >= share * len(text)) & (lengths * share <= len(text))]

    def _prefix(self, text: Encoded) -> Sequence[Element]:
        """So many of a text's rarest tokens that a text with an F1 above the threshold has one of them in its own.

        A token that comes twice is two elements.
        """
        # F1 is 2c / (m + n) with c tokens in common, and n is at least c: so c is at least tm / (2 - t). If two texts
        # have c elements in common, and all elements one order, then the first m - c + 1 of both share one.
        least = math.ceil(self.threshold * len(text) / (2 - self.threshold) - 1e-9)
        count = max(0, len(text) - least + 1)
        # Any fixed order is right. High numbers are rare: of tokens seen since the last reordering, and before it.
        if isinstance(text, str):
            rarest: list[Any] = sorted(text, reverse=True)[:count]
        else:
            rarest = [_character(number) for number in sorted(text, reverse=True)[:count]]
        if len(set(rarest)) == len(rarest):
            return rarest
        times: dict[str | int, int] = {}
        elements: list[Element] = []
        for token in rarest:
            times[token] = times.get(token, 0) + 1
            elements.append(token if times[token] == 1 else (token, times[token]))
        return elements

    def _index(self, number: int, elements: Sequence[Element]) -> None:
        having = self._having
        for element in elements:
            numbers = having.get(element)
            if numbers is None:
                having[element] = array("i", (number,))
            else:
                numbers.append(number)

    def _reorder(self) -> None:
        """Order tokens by how rare they are in the pool now: fewer texts then share the rarest of theirs."""
        self._pool = self._vocabulary.by_rarity(self._pool)
        self._having.clear()
        for number, text in enumerate(self._pool):
            self._index(number, self._prefix(text))
        self._reorder_at = _REORDERED * len(self._pool)

    # Every pair

    def _against_all(self, block: list[Encoded]) -> list[Decision]:
        before = len(self._pool)
        lengths = np.frombuffer(self._lengths, np.int32).copy()  # the pool grows below
        best = _Best([len(text) for text in block], self._top)
        for start in range(0, before, _COLUMNS):
            columns = self._pool[start : start + _COLUMNS]
            best.take(start, common_lengths(block, columns, self._workers), lengths[start : start + _COLUMNS])
        # What comes of a text of the block counts for those behind it: one after the other.
        within = scores(common_lengths(block, block, self._workers), best.lengths[:, None], best.lengths)
        within = np.tril(within, -1)
        too_similar = within > self.threshold
        similar_within = too_similar.any(axis=1)
        accepted = best.highest() <= self.threshold
        for row in np.flatnonzero(accepted & similar_within).tolist():
            accepted[row] = not (too_similar[row] & accepted).any()
        best.take_block(before, within, accepted)
        for row in np.flatnonzero(accepted).tolist():
            self._accept(block[row])
        counts = (before + np.cumsum(accepted) - accepted).tolist()
        rows = zip(accepted.tolist(), best.pairs(), best.sums.tolist(), counts, strict=True)
        return [
            Decision(is_new, pairs, total / count if count else None) for is_new, pairs, total, count in rows
        ]


class _Best:
    """The F1 of a block's texts with others, given part by part: their sums, and the highest, of equals the first."""

    def __init__(self, lengths: Sequence[int], top: int) -> None:
        self.lengths = np.array(lengths, np.int32)
        self.sums = np.zeros(len(lengths))
        self._top = top
        self._bounds = np.zeros(len(lengths))  # of half of F1: what is below is not among the highest
        self._found: list[tuple[Matrix, Matrix, Matrix]] = []  # rows, places, F1

    def take(self, first: int, common: Matrix, lengths: Matrix) -> None:
        """The next ones: what each text has in common with those from number `first` on, and the lengths of these."""
        # c / (m + n) is half of F1 but for the last digits: near enough for a sum, and to see which may be the highest.
        half = common / np.maximum(self.lengths[:, None] + lengths, 1)
        self.sums += 2 * half.sum(axis=1)
        if half.shape[1] >= self._top:
            # The highest of a few of them are no higher than those of all.
            few = np.partition(half[:, :_FEW], -self._top, axis=1)[:, -self._top]
            np.maximum(self._bounds, few, out=self._bounds)
        may_be = half >= np.maximum(self._bounds - _ROUGH, _ROUGH)[:, None]
        if first == 0:  # of those with nothing in common, the first
            may_be[:, : self._top] = True
        rows, at = np.nonzero(may_be)
        self._found.append((rows, first + at, scores(common[rows, at], self.lengths[rows], lengths[at])))

    def take_block(self, first: int, within: Matrix, accepted: Matrix) -> None:
        """The F1 with earlier texts of the block, of which those that are accepted have the numbers from `first` on."""
        columns = np.flatnonzero(accepted)
        is_earlier = columns < np.arange(len(within))[:, None]
        values = within[:, columns]
        self.sums += np.where(is_earlier, values, 0).sum(axis=1)
        rows, at = np.nonzero(is_earlier & (values >= (2 * self._bounds - _ROUGH)[:, None]))
        self._found.append((rows, first + at, values[rows, at]))

    def highest(self) -> Matrix:
        """The highest F1 of each text so far; 0 where there is none."""
        most = np.zeros(len(self.lengths))
        for rows, _, values in self._found:
            np.maximum.at(most, rows, values)
        return most

    def pairs(self) -> list[tuple[tuple[int, float], ...]]:
        """For each text the numbers of the highest and their F1, the highest first."""
        rows, places, values = (np.concatenate(parts) for parts in zip(*self._found, strict=True))
        order = np.lexsort((places, -values, rows))
        starts = np.searchsorted(rows[order], np.arange(len(self.lengths) + 1)).tolist()
        pairs = list(zip(places[order].tolist(), values[order].tolist(), strict=True))
        return [tuple(pairs[start : min(start + self._top, end)]) for start, end in pairwise(starts)]


def _character(number: int) -> str | int:
    """A token's number as it stands in a string, where it can."""
    return chr(number) if number <= sys.maxunicode else number
