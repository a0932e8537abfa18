"""Rejects instructions that hold what evaluation sets ask, or come near to it: else a benchmark measures memory.

Words are compared in lower case and without punctuation. A text of an evaluation set that has fewer words than an
n-gram counts whole; one with so few that it could be a phrase of any text counts only where an instruction says the
same and nothing else. Chinese and Japanese are written without spaces: each of their characters counts as a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.instructions import read_instructions
from magpie.engines.embedder import encode_all
from magpie.neighbors.order import first_before
from magpie.neighbors.vectors import ProgressCallback, UnitVectors, no_progress
from magpie.recipe import Decontaminate, Model
from magpie.steps.base import REJECTED, inner, live, spread, unit_vectors

SHARED_WORDS = "decontaminate: words of an evaluation set"
NEAR = "decontaminate: near an evaluation set"

_UNSPACED = (  # kana, then Han
    r"\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    r"\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_SHORTEST = 5
_SHOWN = 80
_TOLD_EVERY = 20_000


@dataclass(frozen=True, slots=True)
class DecontaminateStep:
    """Adds `contaminated_by`: null, or "FILE:LINE: the words", what of an evaluation set an instruction holds.

    The words are the first n-gram that both hold, or the whole text of the evaluation set, cut, where the instruction
    is merely nearer to it than `distance`.
    """

    part: Decontaminate
    embedder: Model | None = None
    watch: ProgressCallback = no_progress

    name = "decontaminate"
    adds = pa.schema([inner("contaminated_by", pa.string()), REJECTED])
    version = 2

    @property
    def reads(self) -> tuple[str, ...]:
        """The instruction, and its vector where a distance is asked for."""
        return ("instruction",) if self.part.distance is None else ("instruction", "embedding")

    @property
    def settings(self) -> dict[str, Any]:
        """What to look for, and the content of the files. Reads them. Raises RecipeError when one cannot be read."""
        return {
            **self.part.model_dump(mode="json", exclude={"files"}),
            "files": {name: read_instructions(name).digest for name in self.part.files},
        }

    def with_watch(self, watch: ProgressCallback) -> DecontaminateStep:
        """The same step, telling `watch` how far it is."""
        return replace(self, watch=watch)

    def run_all(self, rows: pa.Table) -> pa.Table:
        """The new columns for the whole run. Raises RecipeError, and ModelError where vectors are wanted and wrong."""
        sets = [read_instructions(name) for name in self.part.files]
        places = [place for one in sets for place in one.places]
        texts = [text for one in sets for text in one.texts]
        at = live(rows)
        hits: list[str | None] = []
        known = NGrams(texts, self.part.ngram)
        for number, text in enumerate(_texts(rows, at)):
            found = known.first_in(text)
            hits.append(None if found is None else f"{places[found[0]]}: {found[1]}")
            if number % _TOLD_EVERY == 0:
                self.watch("looking for shared words", number, len(at))
        reasons = [None if hit is None else SHARED_WORDS for hit in hits]
        for number, near in enumerate(self._near(rows, at, texts)):
            if hits[number] is None and near >= 0:
                hits[number] = f"{places[near]}: {_cut(texts[near])}"
                reasons[number] = NEAR
        return spread(rows, at, {"contaminated_by": hits, "rejected": reasons}, self.adds)

    def _near(self, rows: pa.Table, at: Sequence[int], texts: Sequence[str]) -> list[int]:
        """For each live row the first of the texts that its vector is near, or -1."""
        if self.part.distance is None or not at or not texts:
            return [-1] * len(at)
        assert self.embedder is not None
        units = unit_vectors(rows, np.array(at))
        vectors = encode_all(self.embedder, texts).astype(units.stored.dtype)
        both = UnitVectors.of(np.concatenate([vectors, units.stored]))
        return [
            int(found) for found in first_before(both, len(texts), self.part.distance, on_progress=self.watch)
        ]


class NGrams:
    """The n-grams of some texts: runs of so many words, lower-case and without punctuation."""

    def __init__(self, texts: Sequence[str], length: int) -> None:
        self._length = length
        self._text_of: dict[str, int] = {}
        self._lengths: dict[str, set[int]] = {}
        self._phrases: dict[str, int] = {}
        for number, text in enumerate(texts):
            words = _words(text)
            size = min(length, len(words))
            if size < min(length, _SHORTEST):
                self._phrases.setdefault(" ".join(words), number)
                continue
            for start in range(len(words) - size + 1):
                self._text_of.setdefault(" ".join(words[start : start + size]), number)
                self._lengths.setdefault(words[start], set()).add(size)

    def first_in(self, text: str) -> tuple[int, str] | None:
        """The first n-gram of the text that is among these: which text it is of, and its words."""
        words = _words(text)
        whole = " ".join(words)
        if words and whole in self._phrases:
            return self._phrases[whole], whole
        for start, word in enumerate(words):
            for size in sorted(self._lengths.get(word, ()), reverse=True):
                gram = " ".join(words[start : start + size])
                if start + size <= len(words) and gram in self._text_of:
                    return self._text_of[gram], gram
        return None


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _texts(rows: pa.Table, at: Sequence[int]) -> Iterator[str]:
    """The live instructions, a chunk at a time."""
    chosen = rows["instruction"].filter(pc.is_null(rows[REJECTED.name]))
    assert len(chosen) == len(at)
    for chunk in chosen.chunks:
        yield from chunk.to_pylist()


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
