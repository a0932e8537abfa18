"""Charts as files, PNG and SVG, each for light and for dark pages. Without matplotlib there are none."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from magpie.drawing.charts import MOST_BARS, Bars, Chart, Grid, Histogram, Lines, Scatter, Sunburst

FOLDER = "figures/"
_WIDTH, _DOTS = 7.2, 144  # inches, and dots an inch: sharp on a page of usual width
_LAST_LETTER = 0x0530  # the drawing font has Latin, Greek and Cyrillic; further letters would be boxes
_SQUARE = (Sunburst, Scatter)

Form = Literal["png", "svg"]


@dataclass(frozen=True, slots=True)
class Theme:
    """The colors of a page: its text, its lines, and its series. All can be told apart without color vision."""

    name: str
    text: str
    line: str
    series: tuple[str, ...]


# After Okabe and Ito, darker for light pages and lighter for dark ones.
THEMES = (
    Theme("light", "#24292f", "#d0d7de", ("#0b62a8", "#b35c00", "#00785a", "#a03a78", "#6b5b00", "#5a5f66")),
    Theme("dark", "#e6edf3", "#3d444d", ("#6cb6ff", "#f0a35e", "#4fd1a5", "#ee9ccb", "#e3d26f", "#a8b1bb")),
)


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(charts: Sequence[Chart], forms: Sequence[Form] = ("png",)) -> dict[str, bytes]:
    """Each chart for light and dark pages, by its place: figures/NAME-light.png, figures/NAME-dark.png, and so on."""
    return {
        f"{FOLDER}{chart.name}-{theme.name}.{form}": _drawn(chart, theme, form)
        for chart in charts
        for theme in THEMES
        for form in forms
    }


def _drawn(chart: Chart, theme: Theme, form: Form) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    settings: dict[Any, Any] = {
        "text.parse_math": False, "font.size": 9, "font.family": "DejaVu Sans", "svg.fonttype": "none",
        "svg.hashsalt": "magpie",
    }  # fmt: skip
    with mpl.rc_context(settings):
        canvas = Canvas(figsize=(_WIDTH, _height(chart)), dpi=_DOTS, layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.subplots()
        _DRAWN_BY[type(chart)](axes, chart, theme)
        axes.set_title(_letters(chart.title), loc="left", color=theme.text, fontsize=10)
        axes.tick_params(colors=theme.text, length=0)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "left" if isinstance(chart, Bars) else side == "bottom")
            spine.set_color(theme.line)
        file = io.BytesIO()
        # Without the library's version and the time, so that equal datasets have equal figures.
        metadata = {"Software": None} if form == "png" else {"Date": None, "Creator": None}
        canvas.savefig(file, format=form, transparent=True, metadata=metadata)
    return file.getvalue()


def _height(chart: Chart) -> float:
    if isinstance(chart, Bars):
        return 0.9 + 0.27 * min(len(chart.bars), MOST_BARS)
    if isinstance(chart, Grid):
        return 1.4 + 0.3 * len(chart.labels()[0])
    return _WIDTH if isinstance(chart, _SQUARE) else 2.6


def _draw_bars(axes: Any, chart: Bars, theme: Theme) -> None:
    shown = chart.shown()
    labels = [_letters(label) for label, _, _ in shown]
    places = list(range(len(shown)))
    counts = [count for _, count, _ in shown]
    wholes = [count if whole is None else whole for _, count, whole in shown]
    if chart.behind:
        axes.barh(places, wholes, color=theme.series[0], alpha=0.3, height=0.7, label=chart.series[1])
    axes.barh(places, counts, color=theme.series[0], height=0.7, label=chart.series[0])
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.set_xticks([])
    most = max(wholes, default=0) or 1
    axes.set_xlim(0, most * (1.14 if not chart.behind else 1.24))
    for place, count, whole in zip(places, counts, wholes, strict=True):
        text = f"{count:,}" if not chart.behind else f"{count:,} of {whole:,}"
        axes.text(whole + most * 0.01, place, text, va="center", color=theme.text)


def _draw_histogram(axes: Any, chart: Histogram, theme: Theme) -> None:
    edges, counts = chart.counted()
    for (name, values), color in zip(counts.items(), theme.series, strict=False):
        axes.stairs(values, edges, fill=True, color=color, alpha=0.75, label=_letters(name))
    if chart.log:
        axes.set_xscale("log")
    axes.minorticks_off()
    ticks = chart.ticks(edges)
    axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.set_xlabel(chart.unit, color=theme.text)
    axes.set_ylabel("rows", color=theme.text)
    axes.legend(frameon=False, labelcolor=theme.text)


def _draw_lines(axes: Any, chart: Lines, theme: Theme) -> None:
    colors = chart.colors()
    for name, points in chart.series.items():
        style = "--" if name in chart.dashed else "-"
        color = theme.series[colors[name] % len(theme.series)]
        across, up = zip(*points, strict=True)
        axes.plot(across, up, style, color=color, label=_letters(name))
    axes.set_ylim(bottom=0)
    axes.set_xlabel(chart.across, color=theme.text)
    axes.set_ylabel(chart.up, color=theme.text)
    axes.legend(frameon=False, labelcolor=theme.text)


def _draw_grid(axes: Any, chart: Grid, theme: Theme) -> None:
    down, across = chart.labels()
    most = max(chart.cells.values(), default=1)
    for (row, column), count in chart.cells.items():
        x, y = across.index(column), down.index(row)
        alpha = 0.1 + 0.5 * count / most
        axes.barh([y], [0.96], left=[x - 0.48], height=0.92, color=theme.series[0], alpha=alpha)
        axes.text(x, y, f"{count:,}", ha="center", va="center", color=theme.text)
    axes.set_xticks(range(len(across)), [_letters(label) for label in across])
    axes.set_yticks(range(len(down)), [_letters(label) for label in down])
    axes.invert_yaxis()
    axes.set_xlabel(chart.across, color=theme.text)
    axes.set_ylabel(chart.down, color=theme.text)


def _draw_sunburst(axes: Any, chart: Sunburst, theme: Theme) -> None:
    inner = {verb: sum(nouns.values()) for verb, nouns in chart.rings.items()}
    colors = [theme.series[number % len(theme.series)] for number in range(len(inner))]
    edge = {"width": 0.32, "edgecolor": theme.line, "linewidth": 0.5}
    text = {"color": theme.text, "fontsize": 7, "rotation_mode": "anchor"}
    axes.pie(
        list(inner.values()), labels=[_letters(verb) for verb in inner], radius=0.66, colors=colors,
        wedgeprops=edge | {"alpha": 0.55}, textprops=text, labeldistance=0.55, rotatelabels=True,
    )  # fmt: skip
    nouns = [
        (noun, count, colors[at]) for at, of in enumerate(chart.rings.values()) for noun, count in of.items()
    ]
    axes.pie(
        [count for _, count, _ in nouns], labels=[_letters(noun) for noun, _, _ in nouns], radius=1.0,
        colors=[color for _, _, color in nouns], wedgeprops=edge | {"alpha": 0.3}, textprops=text,
        labeldistance=0.72, rotatelabels=True,
    )  # fmt: skip


def _draw_scatter(axes: Any, chart: Scatter, theme: Theme) -> None:
    for number, (name, points) in enumerate(chart.groups.items()):
        if len(points):
            across, up = zip(*points, strict=True)
            color = theme.series[number % len(theme.series)]
            marker = "o^sDvP"[number // len(theme.series) % 6]
            axes.scatter(
                across, up, s=4, color=color, marker=marker, alpha=0.6, linewidths=0, label=_letters(name)
            )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(frameon=False, labelcolor=theme.text, markerscale=3, fontsize=7, loc="upper right")


_DRAWN_BY: dict[type, Callable[[Any, Any, Theme], None]] = {
    Bars: _draw_bars,
    Histogram: _draw_histogram,
    Lines: _draw_lines,
    Grid: _draw_grid,
    Sunburst: _draw_sunburst,
    Scatter: _draw_scatter,
}


def _letters(text: str) -> str:
    text = " ".join(text.split())
    text = "".join(each if each.isprintable() and ord(each) < _LAST_LETTER else "·" for each in text)
    return text if len(text) <= 48 else f"{text[:45]}..."
