"""Rejects instructions that contain questions of evaluation sets, or are near to one.

A model trained on them would answer a benchmark from memory. Words are compared in one form (`magpie.text`),
without regard to case and punctuation.
A text of an evaluation set with fewer words than an n-gram is compared as a whole. One with fewer than five words is
contaminating only if an instruction is equal to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.engines.embedder import encode_all
from magpie.neighbors.vectors import ProgressCallback, UnitVectors
from magpie.recipe import Decontaminate, Model, Recipe
from magpie.steps.base import (
    REJECTED,
    GlobalStep,
    GlobalWork,
    Instructions,
    Tools,
    inner,
    live,
    spread,
    unit_vectors,
)
from magpie.steps.base.unread import first_like, misses
from magpie.steps.decontaminate.sets import NGrams, digest_of, found_in
from magpie.steps.decontaminate.turns import TurnsStep

__all__ = ["NEAR", "SHARED_WORDS", "DecontaminateStep", "TurnsStep"]

SHARED_WORDS = "decontaminate: words of an evaluation set"
NEAR = "decontaminate: near an evaluation set"

_SHOWN = 80  # characters of an evaluation set's text in `contaminated_by`
_ROWS_BETWEEN_REPORTS = 20_000


@dataclass(frozen=True, slots=True)
class DecontaminateStep(GlobalStep):
    """Adds `contaminated_by`: null, or "FILE:LINE: the words", which part of an evaluation set an instruction contains.

    The words are the first n-gram that both contain. Where the instruction is only nearer than `distance`, they are the
    beginning of the evaluation set's text.
    """

    part: Decontaminate
    embedder: Model | None = None

    name = "decontaminate"
    adds = pa.schema(
        [
            inner(
                "contaminated_by",
                pa.string(),
                "What it shares with an evaluation set, as FILE:LINE: the words.",
            ),
            REJECTED,
        ]
    )
    version = 2

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[DecontaminateStep, ...]:
        """The step, where the recipe names evaluation sets."""
        part, embed = recipe.decontaminate, recipe.embed
        return () if part is None else (cls(part, None if embed is None else recipe.model(embed.model)),)

    @property
    def reads(self) -> tuple[str, ...]:
        """The instruction, and its vector where a distance is asked for."""
        return ("instruction",) if self.part.distance is None else ("instruction", "embedding")

    @property
    def settings(self) -> dict[str, Any]:
        """The n-grams and the distance. The files are in the fingerprint, with a digest of their content."""
        return self.part.model_dump(mode="json", exclude={"files"})

    @property
    def bytes_per_row(self) -> int:
        return 2

    @property
    def outcome_columns(self) -> tuple[str, ...]:
        """What a row shares with an evaluation set."""
        return ("contaminated_by",)

    def outcomes(self, columns: Mapping[str, Any]) -> list[str]:
        """For each row the evaluation set that it was found in, or that it was found in none."""
        return found_in(columns["contaminated_by"], self.part)

    def fingerprint(self, tools: Tools) -> dict[str, Any]:
        files = {str(name): digest_of(tools.instructions(name)) for name in self.part.files}
        return {**self.settings, "files": files}

    def bind(self, tools: Tools) -> Decontaminator:
        sets = tuple(tools.instructions(name) for name in self.part.files)
        embedder = self.embedder if self.part.distance is not None else None
        return Decontaminator(self.part, sets, embedder)


@dataclass(frozen=True, slots=True)
class Decontaminator(GlobalWork):
    """Compares instructions with `sets`, by words, and with an `embedder` by the distance of vectors too."""

    part: Decontaminate
    sets: tuple[Instructions, ...]
    embedder: Model | None

    def run_all(self, rows: pa.Table, on_progress: ProgressCallback) -> pa.Table:
        """The new columns for the whole run. Raises ModelError where vectors are wanted and wrong."""
        # First questions first: where a question is asked at once and later, its first place is named.
        places = [place for dataset in self.sets for place in (*dataset.places, *dataset.later_places)]
        texts = [text for dataset in self.sets for text in (*dataset.texts, *dataset.later_texts)]
        at = live(rows)
        contaminated_by: list[str | None] = []
        ngrams = NGrams(texts, self.part.ngram)
        for number, instruction in enumerate(_instructions(rows, at)):
            match = ngrams.first_in(instruction)
            contaminated_by.append(None if match is None else f"{places[match[0]]}: {match[1]}")
            if number % _ROWS_BETWEEN_REPORTS == 0:
                on_progress("looking for shared words", number, len(at))
        reasons = [None if source is None else SHARED_WORDS for source in contaminated_by]
        # Shared words are the stronger proof: the distance gives a reason only where there are none.
        for number, near in enumerate(self._near(rows, at, texts, on_progress)):
            if contaminated_by[number] is None and near >= 0:
                contaminated_by[number] = f"{places[near]}: {_cut(texts[near])}"
                reasons[number] = NEAR
        columns = {"contaminated_by": contaminated_by, "rejected": reasons}
        return spread(rows, at, columns, DecontaminateStep.adds)

    def _near(
        self, rows: pa.Table, at: Sequence[int], texts: Sequence[str], on_progress: ProgressCallback
    ) -> list[int]:
        """For each live row the first of the texts that its vector is near, or -1."""
        if self.part.distance is None or self.embedder is None or not at or not texts:
            return [-1] * len(at)
        units = unit_vectors(rows, np.array(at))
        vectors = encode_all(self.embedder, texts).astype(units.stored.dtype)
        # The texts stand before the rows, so that `first_like` compares each row with texts only.
        both = UnitVectors.of(np.concatenate([vectors, units.stored]))
        unread = misses(self.embedder, chain(texts, _instructions(rows, at)))
        nearest = first_like(both, len(texts), unread, self.part.distance, on_progress)
        return [int(number) for number in nearest]


def _instructions(rows: pa.Table, at: Sequence[int]) -> Iterator[str]:
    """The live instructions."""
    # A chunk at a time: as Python strings, all texts of a run would need several times their size in memory.
    chosen = rows["instruction"].filter(pc.is_null(rows[REJECTED.name]))
    assert len(chosen) == len(at)
    for chunk in chosen.chunks:
        yield from chunk.to_pylist()


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
