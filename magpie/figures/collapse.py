"""Whether a run says the same again and again: its largest topic, its commonest word and opening."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magpie.figures.counts import commonest_word, openings
from magpie.figures.report_rows import INSTRUCTION, VECTOR, ReportRows, report_rows
from magpie.figures.topics import Topics, topics
from magpie.figures.vectors import MOST_ROWS, sampled

if TYPE_CHECKING:
    from magpie.runs.run import Run

OPENS_ALIKE = 0.1
"""An opening of six words that this share of the rows has is worth a warning."""

IN_MANY = 0.25
"""A word that says what a row is about, and stands in this share of the rows, is worth a warning."""

_MOST_ROWS = 40_000  # that are read for it, whole shards of them: status should answer soon
_FEWEST_ROWS = 50


@dataclass(frozen=True, slots=True)
class Collapse:
    """What takes too much of the rows: a topic by its words, an opening, a word; each with its share.

    None for what does not. `rows` are those that were looked at.
    """

    rows: int
    topic: str | None
    topic_share: float | None
    opening: str | None
    opening_share: float | None
    word: str | None
    word_share: float | None

    def lines(self) -> tuple[str, ...]:
        """What to say of it, a line each; empty where nothing is wrong."""
        said = []
        if self.topic is not None and self.topic_share is not None:
            said.append(
                f"{self.topic_share:.0%} of the rows are about one topic: {self.topic}; look at them before going "
                "on, and steer the prompts or set quotas"
            )
        if self.word is not None and self.word_share is not None:
            said.append(f"{self.word_share:.0%} of the rows hold the word “{self.word}”")
        if self.opening is not None and self.opening_share is not None:
            said.append(
                f"{self.opening_share:.0%} of the rows begin with the same words: “{self.opening} ...”"
            )
        return tuple(said)


def collapse(found: Topics | None, rows: ReportRows) -> Collapse | None:
    """What collapsed, from the topics and the kept rows; None where nothing did."""
    kept = int(rows.kept.sum())
    largest = found.largest if found is not None and found.collapsed else None
    opening = next((each for each in openings(rows, 1) if each.share >= OPENS_ALIKE), None)
    word = commonest_word(_texts(rows))
    if word is not None and word[1] < IN_MANY:
        word = None
    if kept < _FEWEST_ROWS or (largest is None and opening is None and word is None):
        return None
    return Collapse(
        kept,
        None if largest is None else largest.name,
        None if largest is None else round(largest.share, 4),
        None if opening is None else opening.words,
        None if opening is None else round(opening.share, 4),
        None if word is None else word[0],
        None if word is None else round(word[1], 4),
    )


def collapse_of(run: Run) -> Collapse | None:
    """What collapsed in a run so far, of its rows that are in; of a large one evenly spread shards are read.

    None too where no row has come far enough. Raises DamagedShardError.
    """
    if run.step_adding(INSTRUCTION) is None or run.first_unfinished is run.steps[0]:
        return None
    rows = report_rows(run, most=_MOST_ROWS)
    found = topics(sampled(rows)) if VECTOR in rows.names else None
    return collapse(found, rows)


def _texts(rows: ReportRows) -> list[str]:
    if INSTRUCTION not in rows.names:
        return []
    at = rows.sample(MOST_ROWS)
    return [text for text in rows.at(at, [INSTRUCTION])[INSTRUCTION].to_pylist() if text]
