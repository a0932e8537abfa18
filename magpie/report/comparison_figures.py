"""Figures of a comparison, for a card or a page: PNG and SVG, by matplotlib."""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from magpie.errors import RunError

if TYPE_CHECKING:
    from pathlib import Path

    from magpie.figures.comparison import Comparison, Figure

# They can be told apart without color vision.
_COLORS = ("#0b62a8", "#b35c00", "#3f7d20", "#7b4ba8", "#8c564b", "#5c6670")
_WIDTH, _DOTS = 7.2, 144  # inches, and dots an inch
_LAST_LETTER = 0x0530  # the drawing font has Latin, Greek and Cyrillic; further letters would be boxes


def write_figures(comparison: Comparison, folder: Path) -> list[Path]:
    """Write the figures to `folder`; their places. Raises RunError where matplotlib is not installed, StorageError."""
    if find_spec("matplotlib") is None:
        raise RunError("figures need matplotlib; install it with: pip install 'magpie-synth[report]'")
    from magpie.storage.writing import make_folders, replacing

    make_folders(folder)
    written = []
    for name, content in draw(comparison).items():
        place = folder / name
        with replacing(place) as new, new.open("wb") as file:
            file.write(content)
        written.append(place)
    return written


def draw(comparison: Comparison) -> dict[str, bytes]:
    """Each figure by its file's name: the differences, and the shares of values, one column a figure."""
    import matplotlib as mpl

    settings: dict[Any, Any] = {
        "text.parse_math": False,
        "font.size": 9,
        "font.family": "DejaVu Sans",
        "svg.hashsalt": "magpie",  # so that equal comparisons have equal figures
    }
    files: dict[str, bytes] = {}
    with mpl.rc_context(settings):
        files |= _saved("differences", _differences(comparison))
        for column in dict.fromkeys(figure.column for figure in comparison.figures if figure.column):
            own = [figure for figure in comparison.figures if figure.column == column]
            files |= _saved(column, _shares(comparison, column, own))
    return files


def _differences(comparison: Comparison) -> Any:
    """Each figure's difference from the first set, in half widths of its interval: beyond 1 is no noise."""
    shown = [figure for figure in comparison.figures if not figure.column]
    canvas, axes = _new(len(shown))
    for number in range(len(comparison.sets) - 1):
        for place, figure in enumerate(shown):
            difference = figure.differences[number]
            if difference is None or difference.low is None or difference.high is None:
                continue
            half = (difference.high - difference.low) / 2
            if not half:
                continue
            axes.errorbar(
                difference.value / half, place + 0.16 * number, xerr=1, fmt="o", markersize=4, capsize=2,
                color=_COLORS[(number + 1) % len(_COLORS)],
                label=_letters(comparison.sets[number + 1].name) if place == 0 else None,
            )  # fmt: skip
    axes.axvline(0, color="#5c6670", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [_letters(figure.name) for figure in shown])
    axes.invert_yaxis()
    axes.set_xlabel("difference, in half widths of its interval")
    axes.set_title(
        _letters(f"Differences from {comparison.sets[0].name}: beyond ±1 is no noise"),
        loc="left",
        fontsize=10,
    )
    return canvas


def _shares(comparison: Comparison, column: str, figures: list[Figure]) -> Any:
    """The share of each value, set beside set, with 95 % intervals."""
    sets = len(comparison.sets)
    canvas, axes = _new(len(figures) * max(1, sets / 2))
    high = 0.8 / sets
    for number, each in enumerate(comparison.sets):
        sides = [(place, figure.sides[number]) for place, figure in enumerate(figures)]
        held = [(place, side) for place, side in sides if side is not None]
        errors = [0.0 if side.low is None else side.value - side.low for _, side in held]
        axes.barh(
            [place + number * high for place, _ in held], [side.value * 100 for _, side in held], height=high,
            xerr=[error * 100 for error in errors], color=_COLORS[number % len(_COLORS)], label=_letters(each.name),
            error_kw={"elinewidth": 0.8, "ecolor": "#5c6670"},
        )  # fmt: skip
    axes.set_yticks(
        [place + 0.4 - high / 2 for place in range(len(figures))], [_letters(each.value) for each in figures]
    )
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("% of rows")
    axes.set_title(_letters(column.replace("_", " ")), loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return canvas


def _new(lines: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(_WIDTH, 1.1 + 0.3 * lines), dpi=_DOTS, layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return canvas, axes


def _saved(name: str, canvas: Any) -> dict[str, bytes]:
    files = {}
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        file = io.BytesIO()
        canvas.savefig(file, format=kind, metadata=metadata)
        files[f"{name}.{kind}"] = file.getvalue()
    return files


def _letters(text: str) -> str:
    text = " ".join(text.split())
    text = "".join(each if each.isprintable() and ord(each) < _LAST_LETTER else "·" for each in text)
    return text if len(text) <= 60 else f"{text[:57]}..."
