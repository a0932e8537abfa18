"""Charts as SVG that stands inside a page: its colors are the page's, and its texts are real text.

What is drawn here is escaped here. Only classes and attributes are used, no `style`, which a page's
Content-Security-Policy forbids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape as _escape

from magpie.drawing.charts import Bars, Chart, Grid, Histogram, Lines, Sunburst
from magpie.escaping import one_line

WIDTH = 480
_LETTERS = 30  # of a label


def svg(chart: Chart) -> str:
    """The chart as an `<svg>` element below its legend, or for bars a list; named for screen readers by its title."""
    if isinstance(chart, Bars):
        return _bars(chart)
    height, parts = _DRAWN_BY[type(chart)](chart)
    width = _SQUARE if isinstance(chart, Sunburst) else WIDTH
    legend = ""
    if isinstance(chart, Histogram):
        names = list(chart.counted()[1])
        legend = _legend(names, range(len(names)))
    elif isinstance(chart, Lines):
        legend = _legend(list(chart.series), list(chart.colors().values()))
    return (
        f'{legend}<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{_attribute(chart.title)}" '
        f'preserveAspectRatio="xMinYMin meet">{"".join(parts)}</svg>'
    )


def data_of(chart: Chart) -> tuple[list[str], list[list[str]]]:
    """The numbers of a chart as a table: its headings and rows."""
    if isinstance(chart, Bars):
        rows = [
            [label, f"{count:,}", *([f"{whole:,}"] if whole is not None else [])]
            for label, count, whole in _all(chart)
        ]
        return [
            "",
            chart.series[0] if chart.behind else "rows",
            *([chart.series[1]] if chart.behind else []),
        ], rows
    if isinstance(chart, Histogram):
        edges, counts = chart.counted()
        ranges = [f"{low:,.4g} to {high:,.4g}" for low, high in pairwise(edges)]
        return [chart.unit, *counts], [
            [name, *(f"{values[at]:,}" for values in counts.values())] for at, name in enumerate(ranges)
        ]
    if isinstance(chart, Lines):
        return ["", chart.across, chart.up], [
            [name, f"{x:,.4g}", f"{y:,.4g}"] for name, points in chart.series.items() for x, y in points
        ]
    if isinstance(chart, Grid):
        down, across = chart.labels()
        return [f"{chart.down} \\ {chart.across}", *across], [
            [row, *(f"{chart.cells.get((row, column), 0):,}" for column in across)] for row in down
        ]
    if isinstance(chart, Sunburst):
        return ["verb", "noun", "rows"], [
            [verb, noun, f"{count:,}"] for verb, nouns in chart.rings.items() for noun, count in nouns.items()
        ]
    return [], []


def _all(chart: Bars) -> list[tuple[str, int, int | None]]:
    behind = chart.behind or (None,) * len(chart.bars)
    return [(label, count, whole) for (label, count), whole in zip(chart.bars, behind, strict=True)]


def _bars(chart: Bars) -> str:
    """Bars as a list, whose texts keep their size on a narrow screen."""
    shown = chart.shown()
    most = max((count if whole is None else whole for _, count, whole in shown), default=0) or 1
    items = []
    for label, count, whole in shown:
        text = f"{count:,}" if whole is None else f"{count:,} of {whole:,}"
        behind = (
            "" if whole is None else f'<rect class="behind" width="{_n(100 * whole / most)}" height="10"/>'
        )
        bar = f'<rect class="bar" width="{_n(100 * count / most)}" height="10"/>'
        items.append(
            f'<li><span class="label"><bdi>{_plain(label, 120)}</bdi></span>'
            f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{behind}{bar}</svg>'
            f'<span class="number">{text}</span></li>'
        )
    key = (
        f'<p class="key">{_plain(chart.series[0], 60)} of {_plain(chart.series[1], 60)}</p>'
        if chart.behind
        else ""
    )
    return f'{key}<ol class="bars chart" aria-label="{_attribute(chart.title)}">{"".join(items)}</ol>'


def _histogram(chart: Histogram) -> tuple[int, Iterable[str]]:
    edges, counts = chart.counted()
    left, right, top, bottom = 46, WIDTH - 10, 8, 174
    place = math.log if chart.log else float
    low, high = place(edges[0]), place(edges[-1])
    most = max(max(values) for values in counts.values()) or 1

    def x(value: float) -> float:
        return left + (right - left) * (place(value) - low) / ((high - low) or 1)

    parts = [_text(left - 6, top + 8, f"{most:,}", "end"), _text(left - 6, bottom, "0", "end")]
    for series, values in enumerate(counts.values()):
        for at, count in enumerate(values):
            height = (bottom - top) * count / most
            if count:
                parts.append(
                    f'<rect class="bar s{series}" x="{_n(x(edges[at]))}" y="{_n(bottom - height)}" '
                    f'width="{_n(max(x(edges[at + 1]) - x(edges[at]) - 1, 1))}" height="{_n(height)}"/>'
                )
    parts.append(f'<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    parts += [
        _text(min(x(tick), WIDTH - 4), bottom + 16, f"{tick:,g}", "end" if x(tick) > right - 20 else "middle")
        for tick in chart.ticks(edges)
    ]
    for value, name in chart.marks:
        if edges[0] <= value <= edges[-1]:
            parts.append(
                f'<line class="mark" x1="{_n(x(value))}" y1="{top}" x2="{_n(x(value))}" y2="{bottom}"/>'
            )
            parts.append(_text(x(value) + 3, top + 8, name))
    parts.append(_text((left + right) / 2, bottom + 34, chart.unit, "middle"))
    return bottom + 42, parts


def _lines(chart: Lines) -> tuple[int, Iterable[str]]:
    colors = chart.colors()
    left, right, top, bottom = 70, WIDTH - 10, 8, 174
    xs = [x for points in chart.series.values() for x, _ in points]
    ys = [y for points in chart.series.values() for _, y in points]
    low, high, most = min(xs), max(xs), max(ys) or 1
    parts = [_text(left - 6, top + 8, _short(most), "end"), _text(left - 6, bottom, "0", "end")]
    for name, points in chart.series.items():
        path = " ".join(
            f"{_n(left + (right - left) * (x - low) / ((high - low) or 1))},{_n(bottom - (bottom - top) * y / most)}"
            for x, y in points
        )
        dashed = " dashed" if name in chart.dashed else ""
        parts.append(f'<polyline class="line s{colors[name] % 6}{dashed}" points="{path}"/>')
    parts.append(f'<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    parts += [_text(left, bottom + 16, _short(low)), _text(right, bottom + 16, _short(high), "end")]
    parts.append(
        _text((left + right) / 2, bottom + 34, f"{chart.across}; up: {chart.up}", "middle", letters=60)
    )
    return bottom + 42, parts


def _grid(chart: Grid) -> tuple[int, Iterable[str]]:
    down, across = chart.labels()
    left, size = 110, min(80, (WIDTH - 120) / max(len(across), 1))
    most = max(chart.cells.values(), default=1)
    parts = [
        _text(left + size * at + size / 2, 30, label, "middle", letters=int(size / 7))
        for at, label in enumerate(across)
    ]
    parts.append(_text(left, 12, f"down: {chart.down}; across: {chart.across}", letters=90))
    for row, label in enumerate(down):
        top = 40 + row * 28
        parts.append(_text(left - 8, top + 17, label, "end", letters=15))
        for column, other in enumerate(across):
            count = chart.cells.get((label, other), 0)
            if count:
                x = left + column * size
                shade = min(5, int(6 * count / most))
                parts.append(
                    f'<rect class="cell c{shade}" x="{_n(x)}" y="{top}" width="{_n(size - 2)}" height="26"/>'
                )
                parts.append(_text(x + size / 2, top + 17, f"{count:,}", "middle"))
    return 44 + len(down) * 28, parts


_SQUARE, _INNER, _MIDDLE, _OUTER = 560, 60, 160, 275


def _sunburst(chart: Sunburst) -> tuple[int, Iterable[str]]:
    total = sum(sum(nouns.values()) for nouns in chart.rings.values()) or 1
    parts, start = [], 0.0
    for number, (verb, nouns) in enumerate(chart.rings.items()):
        share = sum(nouns.values()) / total
        parts.append(_arc(start, share, _INNER, _MIDDLE, f"ring s{number % 6}"))
        parts.append(_arc_text(start, share, (_INNER + _MIDDLE) / 2, verb))
        for noun, count in nouns.items():
            parts.append(_arc(start, count / total, _MIDDLE, _OUTER, f"ring outer s{number % 6}"))
            parts.append(_arc_text(start, count / total, (_MIDDLE + _OUTER) / 2, noun))
            start += count / total
    return _SQUARE, parts


def _arc(start: float, share: float, inner: int, outer: int, kind: str) -> str:
    share = min(share, 0.9999)
    a, b = 2 * math.pi * start, 2 * math.pi * (start + share)
    large = int(share > 0.5)
    points = [(outer, a), (outer, b), (inner, b), (inner, a)]
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = [_polar(radius, angle) for radius, angle in points]
    return (
        f'<path class="{kind}" d="M{x0} {y0}A{outer} {outer} 0 {large} 1 {x1} {y1}'
        f'L{x2} {y2}A{inner} {inner} 0 {large} 0 {x3} {y3}Z"/>'
    )


def _arc_text(start: float, share: float, radius: float, label: str) -> str:
    if share * 2 * math.pi * radius < 11:  # no room for a line of text
        return ""
    turn = 360 * (start + share / 2) - 90
    x, y = _polar(radius, 2 * math.pi * (start + share / 2))
    turn = turn + 180 if 90 < turn % 360 < 270 else turn
    return (
        f'<text x="{x}" y="{y}" text-anchor="middle" dominant-baseline="central" '
        f'transform="rotate({_n(turn)} {x} {y})">{_plain(label, 15)}</text>'
    )


def _polar(radius: float, angle: float) -> tuple[str, str]:
    return _n(_SQUARE / 2 + radius * math.sin(angle)), _n(_SQUARE / 2 - radius * math.cos(angle))


def _legend(names: Sequence[str], colors: Sequence[int]) -> str:
    """What each color is: a list, whose texts keep their size on a narrow screen."""
    items = "".join(
        f'<li><svg viewBox="0 0 12 12" aria-hidden="true"><rect class="s{color % 6}" width="12" height="12"/></svg>'
        f"<bdi>{_plain(name, 60)}</bdi></li>"
        for name, color in zip(names, colors, strict=True)
    )
    return f'<ul class="legend">{items}</ul>'


def _text(x: float, y: float, text: str, anchor: str = "start", *, letters: int = _LETTERS) -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{_plain(text, letters)}</text>'


def _plain(text: str, letters: int) -> str:
    line = one_line(text, 400)
    return _escape(line if len(line) <= letters else f"{line[: letters - 1]}…")


def _attribute(text: str) -> str:
    return _escape(one_line(text, 400), {'"': "&quot;"})


def _short(number: float) -> str:
    """A number for an axis."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def _n(number: float) -> str:
    return f"{number:.1f}".rstrip("0").rstrip(".")


_DRAWN_BY: dict[type, Callable[[Any], tuple[int, Iterable[str]]]] = {
    Histogram: _histogram,
    Lines: _lines,
    Grid: _grid,
    Sunburst: _sunburst,
}
