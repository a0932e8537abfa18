"""Finds the nearest row of known datasets for each instruction: near copies of what a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.engines.embedder import encode_all
from magpie.neighbors.vectors import ProgressCallback
from magpie.recipe import Known, Model, Recipe
from magpie.steps.base import (
    REJECTED,
    GlobalStep,
    GlobalWork,
    Instructions,
    Tools,
    column,
    live,
    spread,
    unit_vectors,
)

_SHOWN = 200  # characters of a known row in `known_as`
_BLOCK = 2048


@dataclass(frozen=True, slots=True)
class KnownStep(GlobalStep):
    """Adds how near the nearest row of the known datasets is, and which that is. Rejects near copies only if told to.

    `known_as` is null where that row is no nearer than `known.distance`.
    """

    part: Known
    embedder: Model

    name = "known"
    reads = ("instruction", "embedding")

    @classmethod
    def plan(cls, recipe: Recipe, _: pa.Schema) -> tuple[KnownStep, ...]:
        """The step, where the recipe names known datasets."""
        part, embed = recipe.known, recipe.embed
        return () if part is None or embed is None else (cls(part, recipe.model(embed.model)),)

    @property
    def adds(self) -> pa.Schema:
        """The distance, the known row, and the reason where near copies are rejected."""
        fields = [
            column(
                "known_distance",
                pa.float32(),
                "Squared distance of its vector to that of the nearest row of a known dataset.",
            ),
            column(
                "known_as", pa.string(), "The known row that it is a near copy of, as NAME:ROW: its text."
            ),
        ]
        return pa.schema([*fields, REJECTED] if self.part.drop else fields)

    @property
    def settings(self) -> dict[str, Any]:
        """The distance, and whether near copies stay. The datasets are in the fingerprint, by their content."""
        return self.part.model_dump(mode="json", exclude={"datasets"})

    def fingerprint(self, tools: Tools) -> dict[str, Any]:
        found = (tools.instructions(name) for name in self.part.datasets)
        return {**self.settings, "datasets": {dataset.name: dataset.digest for dataset in found}}

    @property
    def bytes_per_row(self) -> int:
        return 8

    @property
    def outcome_columns(self) -> tuple[str, ...]:
        return ("known_as",)

    def outcomes(self, columns: Mapping[str, Any]) -> list[str]:
        """For each row whether it is a near copy."""
        near = pc.is_valid(columns["known_as"])
        outcomes: list[str] = pc.if_else(
            near, "a near copy of a known row", "not near a known row"
        ).to_pylist()
        return outcomes

    def bind(self, tools: Tools) -> KnownWork:
        return KnownWork(self, tuple(tools.instructions(name) for name in self.part.datasets))


@dataclass(frozen=True, slots=True)
class KnownWork(GlobalWork):
    """Compares the vectors of all rows with those of the known rows, block by block."""

    step: KnownStep
    datasets: tuple[Instructions, ...]

    def run_all(self, rows: pa.Table, on_progress: ProgressCallback) -> pa.Table:
        """The new columns for the whole run. Raises ModelError where vectors are wrong."""
        places = [place for dataset in self.datasets for place in dataset.places]
        texts = [text for dataset in self.datasets for text in dataset.texts]
        at = live(rows)
        distances: list[float | None] = [None] * len(at)
        named: list[str | None] = [None] * len(at)
        if at and texts:
            units = unit_vectors(rows, np.array(at)).stored
            on_progress("embedding known rows", 0, len(texts))
            vectors = encode_all(self.step.embedder, texts)
            for first in range(0, len(at), _BLOCK):
                on_progress("comparing with known rows", first, len(at))
                nearest, cosines = _nearest(units[first : first + _BLOCK].astype(np.float32), vectors)
                for place, (known, cosine) in enumerate(zip(nearest, cosines, strict=True), start=first):
                    distances[place] = distance = max(0.0, 2 - 2 * cosine)
                    if distance < self.step.part.distance:
                        named[place] = f"{_short(places[known])}: {_cut(texts[known])}"
        columns: dict[str, list[Any]] = {"known_distance": distances, "known_as": named}
        if self.step.part.drop:
            columns[REJECTED.name] = [None if one is None else "known: near copy" for one in named]
        return spread(rows, at, columns, self.step.adds)


def _nearest(units: np.ndarray[Any, Any], vectors: np.ndarray[Any, Any]) -> tuple[list[int], list[float]]:
    """For each unit vector the number of the most similar of the others, and the cosine."""
    units = units / np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-9)
    best = np.full(len(units), -2.0, np.float32)
    which = np.zeros(len(units), np.int64)
    # The known rows in blocks too: a product of all with all would not fit into memory.
    for first in range(0, len(vectors), 16 * _BLOCK):
        cosines = units @ vectors[first : first + 16 * _BLOCK].T
        here = cosines.argmax(axis=1)
        value = cosines[np.arange(len(units)), here]
        better = value > best
        best[better], which[better] = value[better], here[better] + first
    return which.tolist(), best.tolist()


def _short(place: str) -> str:
    """NAME:ROW, of a file on somebody's machine its last name alone: the dataset is given to others."""
    name, _, row = place.rpartition(":")
    hub = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    return f"{name if hub else PurePath(name).name}:{row}"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
