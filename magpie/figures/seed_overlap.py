"""How near instructions are to the seed tasks that a model was shown: the ROUGE-L of each with its nearest seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from magpie.figures.report_rows import INSTRUCTION, TASK, ReportRows
from magpie.self_instruct.overlap import nearest_f1
from magpie.self_instruct.tasks import seed_tasks

MOST_ROWS = 20_000
"""The most rows that are compared."""


@dataclass(frozen=True, slots=True)
class SeedOverlap:
    """The F1 of each sampled row with the most similar of so many `seeds`; `of` rows are kept."""

    values: np.ndarray[Any, np.dtype[np.float64]]
    seeds: int
    of: int

    @property
    def mean(self) -> float:
        """The mean of them."""
        return float(self.values.mean())


def seed_overlap(rows: ReportRows) -> SeedOverlap | None:
    """The overlap of a sample of the kept rows with the seeds of their recipe; None where it has none.

    Raises RecipeError where its file of seeds cannot be read any more.
    """
    if rows.recipe is None or rows.recipe.bootstrap is None or not rows.kept.any():
        return None
    seeds = [task.instruction for task in seed_tasks(rows.recipe.bootstrap.seeds)]
    name = TASK if TASK in rows.names else INSTRUCTION
    texts = rows.at(rows.sample(MOST_ROWS), [name])[name].to_pylist()
    return SeedOverlap(nearest_f1([text or "" for text in texts], seeds), len(seeds), int(rows.kept.sum()))
