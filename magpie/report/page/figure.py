"""A figure of the page: a chart or a table, with what it shows and how it was computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from magpie.drawing.charts import Chart


@dataclass(frozen=True, slots=True)
class Table:
    """Headings, and rows of as many cells; the first cell of each names the row."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class PageFigure:
    """One figure. `says` is one sentence on what it shows, `how` how it was computed; `why_not` stands for a picture
    that could not be made. `examples` are texts to read, below a name each.
    """

    name: str
    title: str
    says: str
    how: str
    chart: Chart | None = None
    table: Table | None = None
    why_not: str | None = None
    examples: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """Figures that belong together, below a heading; `text` stands before them, a paragraph each."""

    name: str
    title: str
    figures: tuple[PageFigure, ...] = ()
    text: tuple[str, ...] = ()


def percent(share: float) -> str:
    """A share in words: "12 %", "0.4 %", "under 0.1 %"."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    return f"{share * 100:.1f} %" if 0 < share < 0.1 or 0.9 < share < 1 else f"{share * 100:.0f} %"


def dollars(amount: float) -> str:
    """A cost in words: "$1,234", "$1.79", "under $0.01"."""
    if 0 < amount < 0.01:
        return "under $0.01"
    return f"${amount:,.0f}" if amount >= 1000 else f"${amount:,.2f}"


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table of anything that has a text."""
    return Table(tuple(headings), tuple(tuple(str(cell) for cell in row) for row in rows))
