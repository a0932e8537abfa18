"""What is measured of a sample of instructions: what is wrong with them, and how much they differ.

Each row is counted once, by its deepest trouble. A role header or special token `leaked` into it; it is `empty`; it is
`looping`, which is a text that repeats itself, ended early or not; it was `cut` by length; `clean` rejected it for some
`other` reason; it is `repeated`, which is the text of an earlier row once more; or it is in another `language` than the
expected. Else it is valid.

The languages expected are the recipe's `language.keep`, and then a row is in another language where a build rejects it.
Where that is not given it is the language that a row was steered to, or else the one most common in the sample, and a
text that shows no language (a sum, a word or two) counts as in it; a build would keep the others, and who wants them
names them in `language.keep`.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from magpie.data.escaping import one_line
from magpie.steps.base import is_looping

if TYPE_CHECKING:
    import pyarrow as pa

    from magpie.chat import ChatFormat

PROBLEMS = ("leaked", "empty", "looping", "repeated", "cut", "language", "other")
Keep = tuple[str, ...] | Literal["steered"] | None
"""The recipe's `language.keep`."""

_EXAMPLES = 3
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Written:
    """Rows as a build has them when nothing but their text is known. `seconds` is what the engine took to write them.

    `keep` is the recipe's `language.keep`. `chat` is the format the generator was prompted in. `problems` says what is
    wrong with rows that are out for a reason, in the words of `PROBLEMS`.
    """

    rows: pa.Table
    seconds: float
    chat: ChatFormat
    problems: Mapping[str, str]
    keep: Keep = None


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over `rows` rows, and its standard error: of other samples like it, two in three lie that near."""

    value: float
    error: float
    rows: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """The mean of the values; a single value has an infinite error, none at all a mean that is no number."""
        if len(values) < 2:
            return cls(float(values[0]) if len(values) else math.nan, math.inf, len(values))
        return cls(
            float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values))), len(values)
        )

    @classmethod
    def share(cls, count: int, rows: int) -> Mean:
        """The share `count` of `rows`.

        Its error is that of one success and one failure more, so that 64 of 64 is not taken for certainty.
        """
        if not rows:
            return cls(math.nan, math.inf, 0)
        guess = (count + 1) / (rows + 2)
        return cls(count / rows, math.sqrt(guess * (1 - guess) / (rows + 2)), rows)

    def to_json(self) -> dict[str, float | int | None]:
        """Value, error and rows; null for what is no number."""
        value, error = (round(x, 4) if math.isfinite(x) else None for x in (self.value, self.error))
        return {"mean": value, "standard_error": error, "rows": self.rows}


@dataclass(frozen=True, slots=True)
class Neighbors:
    """How far apart rows are. `distance` is the mean squared L2 distance of unit vectors to the nearest other row.

    `duplicates` is the share that `dedup` would reject.
    """

    distance: Mean
    duplicates: Mean


@dataclass(frozen=True, slots=True)
class Sample:
    """What a model wrote. `rates` are shares of `rows`, one for each of `PROBLEMS` and `valid`, and add up to 1.

    `whole` says row by row, in order, which are valid. `median_tokens` is the length of an instruction.
    `tokens_per_second` counts all that was generated, over the time it took, loading left out; so few requests do not
    fill a GPU. `examples` holds up to three texts of each problem. `expected` are the languages expected, and
    `expected_from` says where they are from; `languages` are shares of the rows whose language was looked at.

    `distinct_first_words`, `distinct_1` and `distinct_2` are of the rows that a build would embed: how many different
    first words there are for each row, and how many different words and pairs of neighbouring words for each word and
    pair written (Li et al., arXiv 1510.03055). They fall as a sample grows: compare samples of one size.
    """

    rows: int
    rates: Mapping[str, float]
    whole: tuple[bool, ...]
    median_tokens: float
    tokens_per_second: float
    examples: Mapping[str, tuple[str, ...]]
    expected: tuple[str, ...] = ()
    expected_from: str = "not looked at"
    languages: Mapping[str, float] = field(default_factory=dict)
    distinct_first_words: float = 0.0
    distinct_1: float = 0.0
    distinct_2: float = 0.0

    @property
    def valid(self) -> Mean:
        """The share of valid rows."""
        return Mean.share(sum(self.whole), self.rows)

    def to_json(self) -> dict[str, Any]:
        """All of it but `whole`."""
        return {
            "sampled": self.rows,
            "rates": dict(self.rates),
            "median_tokens": self.median_tokens,
            "tokens_per_second": round(self.tokens_per_second, 1),
            "expected_language": list(self.expected),
            "expected_language_from": self.expected_from,
            "languages": {name: round(share, 4) for name, share in self.languages.items()},
            "distinct_first_words": round(self.distinct_first_words, 4),
            "distinct_1": round(self.distinct_1, 4),
            "distinct_2": round(self.distinct_2, 4),
            "examples": {problem: list(texts) for problem, texts in self.examples.items()},
        }


def measure(written: Written) -> Sample:
    """What is to be said of a sample."""
    rows, keep = written.rows, written.keep
    texts: dict[str, list[str]] = {name: [] for name in ("valid", *PROBLEMS)}
    table = rows.to_pylist()
    languages = Counter(row["language"] for row in table if row.get("language") is not None)
    expected, expected_from = _expected(languages, keep, table)
    seen: set[str] = set()
    whole = []
    for row in table:
        problem = _problem(row, written, seen, expected)
        whole.append(problem == "valid")
        texts[problem].append(_example(row, problem))
        if row["instruction"] is not None:
            seen.add(row["instruction"].casefold())
    tokens = rows["instruct_tokens"].to_pylist()
    texts_kept = [row["instruction"] for row in table if row["rejected"] is None]
    return Sample(
        rows=len(table),
        rates={name: len(found) / len(table) for name, found in texts.items()},
        whole=tuple(whole),
        median_tokens=statistics.median(tokens),
        tokens_per_second=sum(tokens) / max(written.seconds, 1e-9),
        examples={name: tuple(found[:_EXAMPLES]) for name, found in texts.items() if found},
        expected=expected,
        expected_from=expected_from,
        languages={name: count / languages.total() for name, count in languages.most_common()},
        **diversity(texts_kept),
    )


def diversity(texts: Sequence[str]) -> dict[str, float]:
    """`distinct_first_words`, `distinct_1` and `distinct_2` of some texts; 0 where there is nothing to count."""
    words = [_WORD.findall(text.casefold()) for text in texts]
    return {
        "distinct_first_words": len({of[0] for of in words if of}) / max(1, len(texts)),
        "distinct_1": _distinct(word for of in words for word in of),
        "distinct_2": _distinct(pair for of in words for pair in pairwise(of)),
    }


def neighbors_of(rows: pa.Table) -> Neighbors:
    """What the neighbours of rows come to, which are rejected where they repeat another and for nothing else."""
    if not rows.num_rows:
        return Neighbors(Mean.of(()), Mean.share(0, 0))
    repeats = rows.num_rows - rows["rejected"].null_count
    distances = rows["min_neighbor_distance"].drop_null().to_pylist()
    return Neighbors(Mean.of(distances), Mean.share(repeats, rows.num_rows))


def _distinct(items: Iterable[Any]) -> float:
    counted = Counter(items)
    return len(counted) / max(1, counted.total())


def _expected(
    languages: Counter[str], keep: Keep, table: Sequence[Mapping[str, Any]]
) -> tuple[tuple[str, ...], str]:
    """The languages expected of rows that were not steered to one, and where they are from."""
    if keep is not None:
        return (() if keep == "steered" else tuple(keep)), "language.keep"
    if not languages:
        return (), "not looked at"
    if any(row.get("steer_language") for row in table):
        return tuple(sorted({row["steer_language"] for row in table if row["steer_language"]})), "steer"
    return (min(languages, key=lambda name: (-languages[name], name)),), "most common in the sample"


def _example(row: Mapping[str, Any], problem: str) -> str:
    text = one_line(row["raw_instruction"]) or "(nothing)"
    if problem == "other":
        why = row["instruct_error"] or row["rejected"].removeprefix("clean: ")
        return one_line(f"({why}) {text}")
    return one_line(f"({row['language'] or 'unknown'}) {text}") if problem == "language" else text


def _problem(row: Mapping[str, Any], written: Written, seen: set[str], expected: Sequence[str]) -> str:
    """The one of `PROBLEMS` that a row has, or "valid"."""
    reason, raw = row["rejected"], row["raw_instruction"]
    problem = None if reason is None else written.problems[reason]
    if problem == "cut":
        # A text is cut because something else went wrong before: that is the deeper trouble.
        if any(leak in raw for leak in written.chat.leaks):
            return "leaked"
        return "looping" if is_looping(raw) else "cut"
    if problem not in {None, "language"}:
        return str(problem)
    language, steered = row.get("language"), row.get("steer_language")
    is_other = language is not None and language not in ((steered,) if steered else expected)
    if row["instruction"].casefold() in seen:
        return "repeated"
    return "language" if reason is not None or is_other else "valid"
