"""The figures of a card: PNG, each for light and for dark pages. Without matplotlib there are none."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

FOLDER = "figures/"
_MOST_BARS = 14
_WIDTH, _DOTS = 7.2, 144  # inches, and dots an inch: sharp on a page of usual width
_LAST_LETTER = 0x0530  # the drawing font has Latin, Greek and Cyrillic; further letters would be boxes


@dataclass(frozen=True, slots=True)
class Theme:
    """The colors of a page: its text, its lines, and two series. Both pairs can be told apart without color vision."""

    name: str
    text: str
    line: str
    series: tuple[str, str]


THEMES = (
    Theme("light", "#24292f", "#d0d7de", ("#0b62a8", "#b35c00")),
    Theme("dark", "#e6edf3", "#3d444d", ("#6cb6ff", "#f0a35e")),
)


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars with their labels and numbers, the first on top."""

    name: str
    title: str
    bars: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often each length is there, on a logarithmic scale; one or two series by their names."""

    name: str
    title: str
    unit: str
    series: Mapping[str, Sequence[int]]


Figure = Bars | Histogram


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(figures: Sequence[Figure]) -> dict[str, bytes]:
    """Each figure as PNG for light and dark pages, by its place: figures/NAME-light.png, figures/NAME-dark.png."""
    return {
        f"{FOLDER}{figure.name}-{theme.name}.png": _drawn(figure, theme)
        for figure in figures
        for theme in THEMES
    }


def _drawn(figure: Figure, theme: Theme) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    settings: dict[Any, Any] = {"text.parse_math": False, "font.size": 9, "font.family": "DejaVu Sans"}
    with mpl.rc_context(settings):
        height = 0.9 + 0.27 * min(len(figure.bars), _MOST_BARS) if isinstance(figure, Bars) else 2.6
        canvas = Canvas(figsize=(_WIDTH, height), dpi=_DOTS, layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.subplots()
        if isinstance(figure, Bars):
            _draw_bars(axes, figure, theme)
        else:
            _draw_histogram(axes, figure, theme)
        axes.set_title(_letters(figure.title), loc="left", color=theme.text, fontsize=10)
        axes.tick_params(colors=theme.text, length=0)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "left" if isinstance(figure, Bars) else side == "bottom")
            spine.set_color(theme.line)
        file = io.BytesIO()
        # Without the library's version and the time, so that equal datasets have equal figures.
        canvas.savefig(file, format="png", transparent=True, metadata={"Software": None})
    return file.getvalue()


def _draw_bars(axes: Any, figure: Bars, theme: Theme) -> None:
    shown = list(figure.bars[:_MOST_BARS])
    if len(figure.bars) > _MOST_BARS:
        shown[-1] = ("others", sum(count for _, count in figure.bars[_MOST_BARS - 1 :]))
    labels = [_letters(label) for label, _ in shown]
    places = list(range(len(shown)))
    counts = [count for _, count in shown]
    axes.barh(places, counts, color=theme.series[0], height=0.7)
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.set_xticks([])
    most = max(counts, default=0) or 1
    axes.set_xlim(0, most * 1.14)
    for place, count in zip(places, counts, strict=True):
        axes.text(count + most * 0.01, place, f"{count:,}", va="center", color=theme.text)


def _draw_histogram(axes: Any, figure: Histogram, theme: Theme) -> None:
    import numpy as np

    series = {
        name: np.maximum(1, np.asarray(values)) for name, values in figure.series.items() if len(values)
    }
    low = min(int(values.min()) for values in series.values())
    high = max(int(values.max()) for values in series.values())
    bars = int(np.clip(max(len(values) for values in series.values()) ** 0.5, 8, 40))
    edges = np.geomspace(low, max(high, low + 1), bars + 1)
    for (name, values), color in zip(series.items(), theme.series, strict=False):
        axes.hist(values, bins=edges, color=color, alpha=0.75, label=_letters(name))
    axes.set_xscale("log")
    axes.minorticks_off()
    rounded = (first * 10**power for power in range(8) for first in (1, 2, 5))
    ticks = [tick for tick in rounded if low <= tick <= high]
    axes.set_xticks(ticks or [low, high], [f"{tick:,}" for tick in ticks or [low, high]])
    axes.set_xlabel(figure.unit, color=theme.text)
    axes.set_ylabel("rows", color=theme.text)
    axes.legend(frameon=False, labelcolor=theme.text)


def _letters(text: str) -> str:
    text = " ".join(text.split())
    text = "".join(each if each.isprintable() and ord(each) < _LAST_LETTER else "·" for each in text)
    return text if len(text) <= 48 else f"{text[:45]}..."
