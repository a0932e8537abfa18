"""How varied what sets ask for is: the verbs of their instructions, and the nouns that are these verbs' objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from magpie.figures.comparison_rows import SetRows
from magpie.figures.estimates import Estimate, distinct_of, entropy
from magpie.figures.verbs import parser_here, verbs_of
from magpie.neighbors.vectors import Positions, ProgressCallback, no_progress

MOST_ROWS = 1_000
"""The most instructions of each set that are parsed."""

VERBS, PAIRS = "entropy of verbs", "distinct verb-noun pairs"


def of_verbs(
    sets: Sequence[SetRows], samples: Sequence[Positions], on_progress: ProgressCallback = no_progress
) -> tuple[int, list[dict[tuple[str, str], Estimate]]]:
    """How many instructions of each set were parsed, and the figures, set by set.

    0 and no figures without spaCy and its English pipeline, or where a set has no instruction in English.
    """
    name = parser_here()
    english = [_english(each, sample) for each, sample in zip(sets, samples, strict=True)]
    drawn = min([MOST_ROWS, *map(len, english)])
    if name is None or drawn < 2:
        return 0, [{} for _ in sets]
    found = []
    for number, (each, at) in enumerate(zip(sets, english, strict=True)):
        on_progress("parsing instructions", number, len(sets))
        pairs = verbs_of([each.instructions[position] for position in at[:drawn]], name)
        there = at[:drawn][np.array([pair is not None for pair in pairs])]
        told = [pair for pair in pairs if pair is not None]
        found.append(
            {
                (VERBS, ""): entropy([verb for verb, _ in told], there),
                (PAIRS, ""): distinct_of([Counter([pair]) for pair in told], there),
            }
            if told
            else {}
        )
    return drawn, found


def _english(rows: SetRows, sample: Positions) -> Positions:
    """The rows of the sample in English; all of them in a set that does not say in which language its rows are."""
    spoken = rows.values["language"]
    if not any(spoken):
        return sample
    return np.array([position for position in sample if spoken[position] == "en"], np.int64)
