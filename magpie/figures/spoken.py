"""In which language rows are asked and answered, and how often the two differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from magpie.figures.report_rows import RESPONSE, Positions, ReportRows

MOST_ROWS = 1000
"""The most rows whose response is looked at: telling a language is slow."""

_LETTERS = 400  # of a response; its language shows in these
_FEWEST_LETTERS = 20  # of shorter texts no language can be told

Detect = Callable[[list[str]], Iterator[str | None]]


@dataclass(frozen=True, slots=True)
class Languages:
    """Pairs of the instruction's language and the response's over `rows` rows, a seeded sample of the `of` kept ones.

    `differ` is the share of those pairs with two different languages, among the rows where both can be told, and
    `others` are the positions of these rows.
    """

    pairs: Mapping[tuple[str, str], int]
    rows: int
    of: int
    differ: float
    others: Positions


def languages(rows: ReportRows, detect: Detect) -> Languages | None:
    """The languages of a sample; None where rows have no response, or their instructions no language."""
    if not rows.has("language") or not rows.has(f"{RESPONSE}_characters"):
        return None
    long_enough = np.asarray(rows.table[f"{RESPONSE}_characters"].fill_null(0).to_numpy()) >= _FEWEST_LETTERS
    of = rows.kept & long_enough & rows.table["language"].is_valid().to_numpy()
    at = rows.sample(MOST_ROWS, of=of)
    if not len(at):
        return None
    texts = [text[:_LETTERS] for text in rows.at(at, [RESPONSE])[RESPONSE].to_pylist()]
    asked = [str(rows.table["language"][int(position)]) for position in at]
    answered = list(detect(texts))
    pairs = Counter((one, other) for one, other in zip(asked, answered, strict=True) if other is not None)
    differ = [other is not None and one != other for one, other in zip(asked, answered, strict=True)]
    told = pairs.total()
    return Languages(
        dict(pairs.most_common()),
        told,
        int(of.sum()),
        sum(differ) / told if told else 0.0,
        at[np.array(differ)],
    )
