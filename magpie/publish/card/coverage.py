"""What a dataset covers, for its card: the topics and the map of the vectors that its run has stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from magpie.drawing.charts import Bars, Chart, Scatter
from magpie.figures.coverage_map import CoverageMap, coverage_map
from magpie.figures.report_rows import report_rows
from magpie.figures.topics import Topics, topics
from magpie.figures.vectors import sampled
from magpie.runs.run import Run

_MOST_ROWS = 40_000  # that are read for it, whole shards of them


@dataclass(frozen=True, slots=True)
class Coverage:
    """The topics, and the map, None where none was drawn. `rows` are those that both are of."""

    topics: Topics
    map: CoverageMap | None
    rows: int

    def charts(self) -> Iterator[Chart]:
        """The figures."""
        yield Bars("topics", "Rows by topic", tuple((topic.name, topic.rows) for topic in self.topics.topics))
        if self.map is not None:
            points = [(float(x), float(y)) for x, y in self.map.places]
            yield Scatter("map", "Instructions with near meanings lie near each other", {"rows": points})


def coverage(run: Run | None, *, with_map: bool) -> Coverage | None:
    """What the kept rows of a run cover; None without a run or stored vectors, and of too few rows for topics."""
    if run is None:
        return None
    sample = sampled(report_rows(run, most=_MOST_ROWS))
    if sample is None or sample.kind != "stored":
        return None
    found = topics(sample)
    return None if found is None else Coverage(found, coverage_map(sample) if with_map else None, found.rows)
