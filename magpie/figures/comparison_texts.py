"""What instructions of compared sets ask for, by verbs and nouns; and of Self-Instruct how near the seeds that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from magpie.errors import RecipeError
from magpie.figures.comparison_rows import SetRows
from magpie.figures.estimates import Estimate, distinct_of, entropy, mean, share
from magpie.figures.verbs import pairs_of, parser_here, parser_named
from magpie.neighbors.vectors import Positions, ProgressCallback
from magpie.self_instruct.overlap import nearest_f1
from magpie.self_instruct.tasks import seed_tasks

NEAR_SEED = "ROUGE-L with the nearest seed"
HAS_PAIR = "has a verb with an object"
PAIRS = "entropy of verb-noun"
DISTINCT = "distinct verb-noun pairs"
SIZED = frozenset({PAIRS, DISTINCT})
OF_VERBS = (HAS_PAIR, PAIRS, DISTINCT)
MOST_PARSED = 1_000
"""The most instructions of each set that are parsed."""

Named = dict[tuple[str, str], Estimate]


def of_texts(
    sets: Sequence[SetRows],
    samples: Sequence[Positions],
    drawn: int,
    on_progress: ProgressCallback,
    *,
    with_verbs: bool = True,
) -> tuple[int, list[Named]]:
    """How many instructions of each set were parsed, and the figures, set by set.

    Those of seeds are there where a set was made after the example of seeds; those of verbs `with_verbs`, where spaCy
    and its English pipeline are installed and every set has instructions in English: equally many of each are parsed.
    """
    found: list[Named] = [{} for _ in sets]
    seeds = _seeds(sets)
    if seeds is not None:
        for number, (each, sample, figures) in enumerate(zip(sets, samples, found, strict=True)):
            on_progress("comparing with the seeds", number, len(sets))
            at = sample[:drawn]
            figures[NEAR_SEED, ""] = mean(nearest_f1([each.tasks[row] for row in at], seeds), at)
    return _of_verbs(sets, samples, found, on_progress) if with_verbs else 0, found


def _of_verbs(
    sets: Sequence[SetRows], samples: Sequence[Positions], found: list[Named], on_progress: ProgressCallback
) -> int:
    """Adds the figures of verbs to those found; how many instructions of each set were parsed."""
    name = parser_here()
    english = [_english(each, sample) for each, sample in zip(sets, samples, strict=True)]
    parsed = min([MOST_PARSED, *map(len, english)])
    if name is None or parsed < 2:
        return 0
    parser = parser_named(name)
    for number, (each, at, figures) in enumerate(zip(sets, english, found, strict=True)):
        on_progress("parsing instructions", number, len(sets))
        here = at[:parsed]
        pairs = pairs_of([each.tasks[row] for row in here], parser)
        has_pair = np.array([pair is not None for pair in pairs])
        figures[HAS_PAIR, ""] = share(has_pair, here)
        if has_pair.any():
            told = [" ".join(pair) for pair in pairs if pair]
            figures[PAIRS, ""] = entropy(told, here[has_pair])
            figures[DISTINCT, ""] = distinct_of([Counter([pair]) for pair in told], here[has_pair])
    return parsed


def _english(rows: SetRows, sample: Positions) -> Positions:
    """The rows of the sample in English, or in a language that is not known."""
    languages = rows.values["language"]
    return np.array([row for row in sample if languages[row] in ("en", None)], np.int64)


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
