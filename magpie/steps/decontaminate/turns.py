"""Rejects conversations in which a later message of the user contains a question of an evaluation set.

Later turns are written after the instruction was compared, so they are compared here, by words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from magpie.recipe import Decontaminate, Recipe
from magpie.steps.base import REJECTED, RowStep, RowWork, Tools, inner, live, spread, values_at
from magpie.steps.decontaminate.sets import NGrams, digest_of, found_in

SHARED_IN_A_LATER_TURN = "decontaminate_turns: words of an evaluation set"


@dataclass(frozen=True, slots=True)
class TurnsStep(RowStep):
    """Adds `contaminated_turn`: null, or "FILE:LINE: the words", what a later message shares with an evaluation set."""

    part: Decontaminate

    name = "decontaminate_turns"
    section = "decontaminate"
    adds = pa.schema(
        [
            inner(
                "contaminated_turn",
                pa.string(),
                "What a later message of the user shares with an evaluation set, as FILE:LINE: the words.",
            ),
            REJECTED,
        ]
    )
    reads = ("later_turns",)

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[TurnsStep, ...]:
        """The step, where the recipe names evaluation sets and asks for further turns."""
        part = recipe.decontaminate
        return () if part is None or recipe.extend is None else (cls(part),)

    @property
    def settings(self) -> dict[str, Any]:
        """The n-grams. The files are in the fingerprint, with a digest of their content."""
        return {"ngram": self.part.ngram}

    @property
    def bytes_per_row(self) -> int:
        return 1

    @property
    def outcome_columns(self) -> tuple[str, ...]:
        """What a later message shares with an evaluation set."""
        return ("contaminated_turn",)

    def outcomes(self, columns: Mapping[str, Any]) -> list[str]:
        """For each row the evaluation set that a later message was found in, or that it was found in none."""
        return found_in(columns["contaminated_turn"], self.part)

    def fingerprint(self, tools: Tools) -> dict[str, Any]:
        files = {str(name): digest_of(tools.instructions(name)) for name in self.part.files}
        return {**self.settings, "files": files}

    def bind(self, tools: Tools) -> TurnsWork:
        sets = [tools.instructions(name) for name in self.part.files]
        places = [place for dataset in sets for place in (*dataset.places, *dataset.later_places)]
        texts = [text for dataset in sets for text in (*dataset.texts, *dataset.later_texts)]
        return TurnsWork(self, NGrams(texts, self.part.ngram), tuple(places))


@dataclass(frozen=True, slots=True)
class TurnsWork(RowWork[None]):
    """Compares later messages of the user. `places` says where each text of the sets stands."""

    step: TurnsStep
    ngrams: NGrams
    places: tuple[str, ...]

    async def run(self, rows: pa.Table, _: None) -> pa.Table:
        """Compares in a thread, so that an engine fed by the same event loop is not kept waiting."""
        return await asyncio.to_thread(self._compare, rows)

    def _compare(self, rows: pa.Table) -> pa.Table:
        at = live(rows)
        found = [self._first_in(turns or []) for turns in values_at(rows, "later_turns", at)]
        reasons = [None if one is None else SHARED_IN_A_LATER_TURN for one in found]
        return spread(rows, at, {"contaminated_turn": found, REJECTED.name: reasons}, self.step.adds)

    def _first_in(self, turns: list[dict[str, str]]) -> str | None:
        for message in turns:
            if message["role"] == "user" and (match := self.ngrams.first_in(message["content"])):
                return f"{self.places[match[0]]}: {match[1]}"
        return None
