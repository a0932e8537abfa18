"""Documents before the user's header: each cut into chunks of a token budget, and dealt out over the rows.

In every round of rows each document comes once, in an order drawn by seed, and from round to round with its next
chunk. A document is cut when it is first dealt.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from magpie.records.documents import Document
from magpie.steps.instruct.dealing import Shuffles
from magpie.text import SENTENCE_ENDS

Encode = Callable[[str], list[int]]

_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE = re.compile(rf"(?<=[{re.escape(SENTENCE_ENDS)}])\s+|\n")
_WORD = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document. `id` is the document's, and `#` with the number of the part from 1."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Chunks:
    """The documents of a run. `encode` gives the tokens of a text, of which a chunk has at most `budget`."""

    documents: tuple[Document, ...]
    encode: Encode
    leaks: tuple[str, ...]
    budget: int
    _cut: dict[int, tuple[Chunk, ...]] = field(default_factory=dict, repr=False, compare=False)

    def dealt(self, run_seed: int, index: np.ndarray[Any, Any]) -> list[Chunk]:
        """The chunk of each row, from its position and the run's seed alone."""
        order = Shuffles(run_seed)
        rounds, at = np.divmod(np.asarray(index, np.int64), len(self.documents))
        dealt = []
        for number, place in zip(rounds.tolist(), at.tolist(), strict=True):
            document = order.of("the documents", number, len(self.documents))[place]
            chunks = self._chunks(document)
            dealt.append(chunks[number % len(chunks)])
        return dealt

    def _chunks(self, number: int) -> tuple[Chunk, ...]:
        if number not in self._cut:
            document = self.documents[number]
            text = document.text
            for leak in self.leaks:
                # A document that holds a token of the chat format would end the turn that it stands in.
                text = text.replace(leak, " ")
            parts = cut_to(text, self.budget, self.encode)
            self._cut[number] = tuple(
                Chunk(f"{document.id}#{at}", part.strip()) for at, part in enumerate(parts, start=1)
            )
        return self._cut[number]


def cut_to(text: str, budget: int, encode: Encode) -> list[str]:
    """The text in parts of at most `budget` tokens, cut between paragraphs, else sentences, else words."""
    return _packed(text, budget, encode, (_PARAGRAPH, _SENTENCE, _WORD)) or [text]


def _packed(text: str, budget: int, encode: Encode, seams: tuple[re.Pattern[str], ...]) -> list[str]:
    if len(encode(text)) <= budget:
        return [text] if text.strip() else []
    if not seams:
        # One word that is longer than a chunk: in halves, until each fits.
        middle = len(text) // 2
        return [text] if middle == 0 else [
            part for half in (text[:middle], text[middle:]) for part in _packed(half, budget, encode, ())
        ]  # fmt: skip
    parts: list[str] = []
    start = end = (
        0  # of the part that is being filled, in the text: what stands between pieces stays as it is
    )
    for piece_start, piece_end in _pieces(text, seams[0]):
        if len(encode(text[start:piece_end])) <= budget:
            end = piece_end
            continue
        if end > start:
            parts.append(text[start:end])
        start, end = piece_start, piece_end
        if len(encode(text[start:end])) > budget:
            parts += _packed(text[start:end], budget, encode, seams[1:])
            start = end
    return [*parts, text[start:end]] if end > start and text[start:end].strip() else parts


def _pieces(text: str, seam: re.Pattern[str]) -> list[tuple[int, int]]:
    starts, ends = [0], []
    for match in seam.finditer(text):
        ends.append(match.start())
        starts.append(match.end())
    return [(start, end) for start, end in zip(starts, [*ends, len(text)], strict=True) if end > start]
