"""What is measured of a sample of instructions: what is wrong with them, and how much they differ.

Each row is counted once: as valid, or under one problem.

leaked      a role header or a special token is in the text
looping     the text repeats itself, whether or not the engine stopped it for that
cut         the text reached the token limit
empty       nothing, or no word, is left after `clean`
other       `clean` rejected the row for another reason
repeated    an earlier row of the sample has the same text
language    the text is in another language than the expected ones

The expected languages are those of `language.keep`, and a row is counted under `language` when a build rejects it for
that. Without `language.keep`, a build keeps every language. The expected language is then the one that the row was
steered to, or the most common one of the sample. A text in which no language is detected (a sum, a word or two) counts
as expected.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from magpie.escaping import one_line
from magpie.steps.base import is_looping
from magpie.text import folded
from magpie.text import words as words_of

if TYPE_CHECKING:
    import pyarrow as pa

    from magpie.chat import ChatFormat
    from magpie.steps.base import Step

PROBLEMS = ("leaked", "empty", "looping", "repeated", "cut", "language", "other")
Keep = tuple[str, ...] | Literal["steered"] | None
"""The recipe's `language.keep`."""

_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Written:
    """A sample as it was written: its rows after the steps that look at one text at a time, such as `clean`.

    `seconds` is how long the engine took, without loading. `chat` is the generator's chat format. `problems` says for
    each reason in `rejected` which of `PROBLEMS` it is. `keep` is the recipe's `language.keep`.
    """

    rows: pa.Table
    seconds: float
    chat: ChatFormat
    problems: Mapping[str, str]
    keep: Keep = None


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over `rows` rows, and its standard error."""

    value: float
    error: float
    rows: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """The mean of the values. The error of a single value is infinite, and the mean of no value is NaN."""
        if len(values) < 2:
            return cls(float(values[0]) if len(values) else math.nan, math.inf, len(values))
        return cls(
            float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values))), len(values)
        )

    @classmethod
    def share(cls, count: int, rows: int) -> Mean:
        """The share `count` / `rows`; NaN for no rows."""
        if not rows:
            return cls(math.nan, math.inf, 0)
        # The usual error of a share is 0 for 64 of 64 rows, as if all further rows were certain. With one success and
        # one failure more (Laplace's rule of succession) it is small and not 0.
        smoothed = (count + 1) / (rows + 2)
        return cls(count / rows, math.sqrt(smoothed * (1 - smoothed) / (rows + 2)), rows)

    def to_json(self) -> dict[str, float | int | None]:
        """Value, error and rows; null for a value or an error that is not finite."""
        value, error = (round(x, 4) if math.isfinite(x) else None for x in (self.value, self.error))
        return {"mean": value, "standard_error": error, "rows": self.rows}


@dataclass(frozen=True, slots=True)
class Neighbors:
    """How much rows differ.

    `distance` is the mean, over rows, of the squared L2 distance between a row's unit vector and the nearest other one.
    `duplicates` is the share of rows that `dedup` would reject.
    """

    distance: Mean
    duplicates: Mean


@dataclass(frozen=True, slots=True)
class Sample:
    """The figures of a sample. `rates` are shares of `rows`, one for `valid` and one for each of `PROBLEMS`.

    `valid_rows` says of each row, in order, whether it is valid. `median_tokens` is the length of an instruction.
    `tokens_per_second` is the speed of the engine without the time to load it; a sample is too small to keep a GPU
    busy, so a build is faster. `examples` holds up to three texts of each problem. `expected` are the expected
    languages, and `expected_from` says where they come from. `languages` are shares of the rows with a known language.

    `distinct_first_words`, `distinct_1` and `distinct_2` are computed over the rows that are not rejected: the number
    of different first words divided by the number of rows, of different words divided by all words, and of different
    pairs of neighbouring words divided by all pairs (Li et al., arXiv 1510.03055). They fall as a sample grows, so
    compare samples of one size.
    """

    rows: int
    rates: Mapping[str, float]
    valid_rows: tuple[bool, ...]
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
        return Mean.share(sum(self.valid_rows), self.rows)

    def to_json(self) -> dict[str, Any]:
        """Everything but `valid_rows`, as JSON can hold it."""
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
    """The figures of a sample."""
    examples: dict[str, list[str]] = {name: [] for name in ("valid", *PROBLEMS)}
    table = written.rows.to_pylist()
    languages = Counter(row["language"] for row in table if row.get("language") is not None)
    expected, expected_from = _expected(languages, written.keep, table)
    seen: set[str] = set()
    valid_rows = []
    for row in table:
        problem = _problem(row, written, seen, expected)
        valid_rows.append(problem == "valid")
        examples[problem].append(_example(row, problem))
        if row["instruction"] is not None:
            seen.add(folded(row["instruction"]))
    tokens = written.rows["instruct_tokens"].to_pylist()
    kept = [row["instruction"] for row in table if row["rejected"] is None]
    return Sample(
        rows=len(table),
        rates={name: len(texts) / len(table) for name, texts in examples.items()},
        valid_rows=tuple(valid_rows),
        median_tokens=statistics.median(tokens),
        tokens_per_second=sum(tokens) / max(written.seconds, 1e-9),
        examples={name: tuple(texts[:_EXAMPLES]) for name, texts in examples.items() if texts},
        expected=expected,
        expected_from=expected_from,
        languages={name: count / languages.total() for name, count in languages.most_common()},
        **diversity(kept),
    )


def diversity(texts: Sequence[str]) -> dict[str, float]:
    """`distinct_first_words`, `distinct_1` and `distinct_2` of some texts; 0 where there is nothing to count."""
    word_lists = [words_of(text) for text in texts]
    return {
        "distinct_first_words": len({words[0] for words in word_lists if words}) / max(1, len(texts)),
        "distinct_1": _distinct(word for words in word_lists for word in words),
        "distinct_2": _distinct(pair for words in word_lists for pair in pairwise(words)),
    }


def problems_of(steps: Iterable[Step], rows: pa.Table) -> dict[str, str]:
    """Which of `PROBLEMS` each reason stands for, for the reasons in the column `rejected` of `rows`."""
    problems: dict[str, str] = {}
    for reason in set(rows["rejected"].drop_null().to_pylist()):
        answers = (step.problem(reason) for step in steps if reason.startswith(f"{step.name}: "))
        problems[reason] = next((problem for problem in answers if problem is not None), "other")
    return problems


def neighbors_of(rows: pa.Table) -> Neighbors:
    """The figures of rows that went through `dedup`, none of which was rejected before."""
    if not rows.num_rows:
        return Neighbors(Mean.of(()), Mean.share(0, 0))
    # So every rejected row is a duplicate.
    repeats = rows.num_rows - rows["rejected"].null_count
    distances = rows["min_neighbor_distance"].drop_null().to_pylist()
    return Neighbors(Mean.of(distances), Mean.share(repeats, rows.num_rows))


def _distinct(items: Iterable[Any]) -> float:
    counted = Counter(items)
    return len(counted) / max(1, counted.total())


def _expected(
    languages: Counter[str], keep: Keep, table: Sequence[Mapping[str, Any]]
) -> tuple[tuple[str, ...], str]:
    """The expected languages, and where they come from. A row that was steered to a language is compared with that."""
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
        reason = row["instruct_error"] or row["rejected"].removeprefix("clean: ")
        return one_line(f"({reason}) {text}")
    return one_line(f"({row['language'] or 'unknown'}) {text}") if problem == "language" else text


def _problem(row: Mapping[str, Any], written: Written, seen: set[str], expected: Sequence[str]) -> str:
    """The one of `PROBLEMS` that a row has, or "valid"."""
    reason, raw = row["rejected"], row["raw_instruction"]
    problem = None if reason is None else written.problems[reason]
    if problem == "cut":
        # A text that leaks or loops often runs on to the token limit. The cut is then a consequence, and a higher
        # limit would not help.
        if any(leak in raw for leak in written.chat.leaks):
            return "leaked"
        return "looping" if is_looping(raw) else "cut"
    if problem not in {None, "language"}:
        return str(problem)
    # What is left has an instruction, also where `language` rejected it. A repeated text is counted as that, whatever
    # language it is in.
    if folded(row["instruction"]) in seen:
        return "repeated"
    language, steered_to = row.get("language"), row.get("steer_language")
    expected_here = (steered_to,) if steered_to else expected
    is_other = language is not None and language not in expected_here
    return "language" if problem == "language" or is_other else "valid"
