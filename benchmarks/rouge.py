"""The ROUGE-L filter of Self-Instruct, beside the loop of the original over Google's `rouge_score`.

The same texts, real sentences and near copies of some, go through both one after the other, each in the order of the
original: a text stays if its F1 with none of those kept before is above 0.7. The reference scores every pair in one
process (the original shares the pairs of a text out to processes); ours compares every pair too, for the ten most
similar and the mean, and then once more only as far as decisions need it. Then ours alone takes 52,000 texts, as many
as the original's published set, both ways; without --quick also 500,000, decisions only. Seconds of processors are
those of all threads together: the reference has one, ours has as many as there are processors.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.sentences import sentences
from magpie.self_instruct.rouge import THRESHOLD, RougeFilter

T = TypeVar("T")
OnProgress = Callable[[int, int], None]

PUBLISHED, MANY = 52_000, 500_000


def main() -> None:
    """Measure, show, and end with one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rouge", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--quick", action="store_true", help="1,000 texts beside the reference instead of 4,000"
    )
    parser.add_argument("--rows", type=int, help="texts beside the reference")
    parser.add_argument("--published", type=int, default=PUBLISHED, help="texts that ours alone takes")
    options = parser.parse_args()
    rows = options.rows or (1000 if options.quick else 4000)
    real = sentences(options.published)
    texts = with_copies(real, max(rows, options.published))
    few = texts[:rows]
    RougeFilter(averages=True).screen(few[:20])  # what is imported at the first call is in no time
    expected, reference = _timed("rouge_score", lambda tell: original(few, tell))
    found, every_pair = _timed("every pair", lambda tell: RougeFilter(averages=True).screen(few, tell))
    decided, decisions = _timed("decisions", lambda tell: RougeFilter().screen(few, tell))
    same = (
        [one.accepted for one in found]
        == [kept for kept, _, _ in expected]
        == [one.accepted for one in decided]
    )
    differences = [0.0]
    for one, (_, best, mean) in zip(found, expected, strict=True):
        if one.average is not None:
            differences += [abs(one.average - mean), abs(one.most_similar[0][1] - best)]
    many = texts[: options.published]
    _, published = _timed("decisions", lambda tell: RougeFilter().screen(many, tell))
    _, published_every = _timed("every pair", lambda tell: RougeFilter(averages=True).screen(many, tell))
    lines = [
        ("rouge_score, the original's loop", rows, reference),
        ("every pair, most similar and mean", rows, every_pair),
        ("decisions only", rows, decisions),
        ("every pair, most similar and mean", len(many), published_every),
        ("decisions only", len(many), published),
    ]
    figures = {
        "benchmark": "rouge",
        "rows": rows,
        "ratio": round(reference.clock / every_pair.clock, 1),
        "decisions_ratio": round(reference.clock / decisions.clock, 1),
        "cpu_ratio": round(reference.processors / every_pair.processors, 1),
        "decisions_cpu_ratio": round(reference.processors / decisions.processors, 1),
        "same_decisions": same,
        "max_difference": max(differences),
        "rows_published": len(many),
        "seconds_52k": round(published.clock, 2),
        "seconds_52k_averages": round(published_every.clock, 2),
    }
    if not options.quick and not options.rows:
        largest = with_copies(real, MANY)
        _, seconds = _timed("decisions", lambda tell: RougeFilter().screen(largest, tell))
        lines.append(("decisions only", MANY, seconds))
        figures["seconds_500k"] = round(seconds.clock, 1)
    figures["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
    _show(lines)
    print(json.dumps(figures))


def original(texts: Sequence[str], on_progress: OnProgress) -> list[tuple[bool, float, float]]:
    """The loop of the original: for each text whether it is kept, its highest F1 with those kept before, the mean."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    kept: list[str] = []
    decisions = []
    for number, text in enumerate(texts):
        # A pair is the unit of work: the number of texts would promise an end far too soon.
        on_progress(number * number, len(texts) ** 2)
        scores = [scorer.score(other, text)["rougeL"].fmeasure for other in kept]
        best, mean = (max(scores), sum(scores) / len(scores)) if scores else (0.0, 0.0)
        decisions.append((best <= THRESHOLD, best, mean))
        if best <= THRESHOLD:
            kept.append(text)
    return decisions


def with_copies(real: Sequence[str], count: int) -> list[str]:
    """So many texts: the real ones, and near copies, of which every fifth is one."""
    draw = random.Random(0)
    texts: list[str] = []
    for number in range(count):
        if number >= len(real) or (number % 5 == 4 and texts):
            words = draw.choice(real).split()
            # Past the real texts, two halves of them make a new one.
            other = draw.choice(real).split()
            half = len(words) // 2
            texts.append(
                " ".join([*words[:half], *(other[half:] if number >= len(real) else words[half + 1 :])])
            )
        else:
            texts.append(real[number])
    return texts


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long something took: by the clock, and of processors, which others that are at work do not change."""

    clock: float
    processors: float


def _timed(what: str, work: Callable[[OnProgress], T]) -> tuple[T, Seconds]:
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        clock, processors = time.perf_counter(), time.process_time()
        result = work(lambda done, total: bar.update(task, completed=done, total=total))
        return result, Seconds(time.perf_counter() - clock, time.process_time() - processors)


def _show(lines: Sequence[tuple[str, int, Seconds]]) -> None:
    table = Table(title="rouge: the ROUGE-L filter of Self-Instruct", title_justify="left")
    for heading in ("way", "texts", "seconds", "of processors"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for name, rows, seconds in lines:
        table.add_row(name, f"{rows:,}", f"{seconds.clock:.2f}", f"{seconds.processors:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
