"""Figures of Self-Instruct's paper for sets that are compared: what is asked for, and how near the seeds that is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from magpie.errors import RecipeError
from magpie.figures.comparison_rows import SetRows
from magpie.figures.estimates import Estimate, entropy, mean, share
from magpie.figures.verbs import pairs_of, parser_here, parser_named
from magpie.neighbors.vectors import Positions, ProgressCallback
from magpie.self_instruct.overlap import nearest_f1
from magpie.self_instruct.tasks import seed_tasks

NEAR_SEED = "ROUGE-L with the nearest seed"
HAS_PAIR = "has a verb with an object"
PAIRS = "entropy of verb-noun"
SIZED = frozenset({PAIRS})

Named = dict[tuple[str, str], Estimate]


def of_texts(
    sets: Sequence[SetRows], samples: Sequence[Positions], drawn: int, on_progress: ProgressCallback
) -> list[Named]:
    """The figures of the rows drawn, set by set; none where no set was made after the example of seeds."""
    seeds = _seeds(sets)
    found: list[Named] = [{} for _ in sets]
    if seeds is None:
        return found
    name = parser_here()
    parser = None if name is None else parser_named(name)
    for number, (each, sample, figures) in enumerate(zip(sets, samples, found, strict=True)):
        on_progress("parsing instructions", number, len(sets))
        at = sample[:drawn]
        figures[NEAR_SEED, ""] = mean(nearest_f1([each.tasks[row] for row in at], seeds), at)
        if parser is None:
            continue
        languages = each.values["language"]
        english = np.array([row for row in at if languages[row] in ("en", None)], np.int64)
        if not len(english):
            continue
        pairs = pairs_of([each.tasks[row] for row in english], parser)
        has_pair = np.array([pair is not None for pair in pairs])
        figures[HAS_PAIR, ""] = share(has_pair, english)
        if has_pair.any():
            figures[PAIRS, ""] = entropy([" ".join(pair) for pair in pairs if pair], english[has_pair])
    return found


def _seeds(sets: Sequence[SetRows]) -> list[str] | None:
    """The seeds of the first run that has any: all sets are measured against the same."""
    for each in sets:
        part = None if each.run is None else each.run.recipe.bootstrap
        if part is not None:
            try:
                return [task.instruction for task in seed_tasks(part.seeds)]
            except RecipeError:  # the file was there when the run was made, and is not any more
                continue
    return None
