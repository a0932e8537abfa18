"""What a dataset covers, in figures: the map, its topics, how instructions open, and what they ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from magpie.drawing.charts import Bars, Scatter, Sunburst
from magpie.figures.report_figures import ReportFigures
from magpie.figures.topics import FEWEST_ROWS
from magpie.report.page.figure import PageFigure, percent, table

_SHOWN_TOPICS = 12


def coverage(figures: ReportFigures) -> Iterator[PageFigure]:
    """The map and the topics; for each, why there is none."""
    places, found = figures.map, figures.topics
    if places is not None and figures.sample is not None:
        groups = {"kept rows": _points(places.places)}
        for other, others in zip(figures.others, places.others, strict=True):
            groups[other.name] = _points(others)
        sampled = len(figures.sample.positions)
        laid = "".join(
            f", and {len(other.texts):,} of {other.of:,} of {other.name}" for other in figures.others
        )
        yield PageFigure(
            "map",
            "Coverage map",
            f"Instructions with near meanings lie near each other: {sampled:,} of {figures.sample.of:,} kept "
            f"rows{laid}.",
            f"Places by {places.method}, from {figures.sample.made_by}. Only who is near whom means something: not the "
            "axes, and not how far islands lie apart.",
            Scatter("map", "Coverage map", groups),
        )  # fmt: skip
    else:
        yield PageFigure(
            "map", "Coverage map", "", "", why_not=figures.missing.get("map", "there are too few rows")
        )
    if found is None:
        few = f"topics are told of {FEWEST_ROWS} rows or more"
        yield PageFigure("topics", "Topics", "", "", why_not=figures.missing.get("topics", few))
        return
    most = found.topics[:_SHOWN_TOPICS]
    yield PageFigure(
        "topics",
        "Topics",
        f"The largest topic holds {percent(found.largest.share)} of the rows; the rows are spread as over "
        f"{2**found.entropy:.1f} equal topics ({found.entropy:.2f} bits, {len(found.topics)} topics).",
        f"k-means over {found.made_by}, of {found.rows:,} rows; groups whose centres point the same way are one topic. "
        "A topic is named by the words that stand in many of its instructions and in few others.",
        Bars("topics", "Rows by topic", tuple((topic.name, topic.rows) for topic in found.topics)),
        table(("topic", "rows", "share"), [(topic.name, f"{topic.rows:,}", percent(topic.share)) for topic in most]),
    )  # fmt: skip


def _points(places: Any) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in places]


def openings(figures: ReportFigures) -> Iterator[PageFigure]:
    """The commonest first words."""
    if figures.openings:
        first = figures.openings[0]
        rows = [(each.words, f"{each.rows:,}", percent(each.share)) for each in figures.openings]
        yield PageFigure(
            "openings",
            "Commonest openings",
            f"{percent(first.share)} of the kept instructions begin with “{first.words}”, the commonest opening.",
            "The first six words of each kept instruction, without regard to case and punctuation, counted.",
            table=table(("first six words", "rows", "share"), rows),
        )


def verbs(figures: ReportFigures) -> Iterator[PageFigure]:
    """The verbs and their nouns, or why there are none."""
    found = figures.verbs
    if found is None:
        why = figures.missing.get("verbs", "no instruction was parsed")
        yield PageFigure("verbs", "What is asked for", "", "", why_not=why)
        return
    rings = found.top()
    if rings:
        yield PageFigure(
            "verbs",
            "What is asked for",
            f"The {len(rings)} commonest verbs, and what each is most often done to.",
            f"The first verb with a direct object of each of {found.rows:,} of {found.of:,} kept instructions in "
            f"English, as spaCy's {found.parser} parses them; {found.parsed:,} have one.",
            Sunburst("verbs", "Verbs and their nouns", rings),
        )  # fmt: skip
