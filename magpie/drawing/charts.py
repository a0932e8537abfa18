"""The kinds of chart: what is drawn, without how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MOST_BARS = 14


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars with their labels and numbers, the first on top.

    `behind` has for each bar the larger number that it is a part of, drawn lightly behind it; both have a name.
    """

    name: str
    title: str
    bars: tuple[tuple[str, int], ...]
    behind: tuple[int, ...] = ()
    series: tuple[str, str] = ("kept", "all rows")

    def shown(self) -> list[tuple[str, int, int | None]]:
        """The bars that there is room for: label, number, and what it is a part of; the rest as one."""
        behind = self.behind or (None,) * len(self.bars)
        every = [(label, count, whole) for (label, count), whole in zip(self.bars, behind, strict=True)]
        if len(every) <= MOST_BARS:
            return every
        rest = every[MOST_BARS - 1 :]
        whole = sum(part for _, _, part in rest if part is not None) if self.behind else None
        return [*every[: MOST_BARS - 1], ("others", sum(count for _, count, _ in rest), whole)]


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often each value is there; one or two series by their names. `log` counts lengths, which differ by powers."""

    name: str
    title: str
    unit: str
    series: Mapping[str, Sequence[float]]
    log: bool = True
    marks: tuple[tuple[float, str], ...] = ()

    def counted(self) -> tuple[list[float], dict[str, list[int]]]:
        """The edges between the bars, and how many values of each series lie in each."""
        import numpy as np

        floor = 1.0 if self.log else -np.inf
        series = {
            name: np.maximum(floor, np.asarray(values, float)) for name, values in self.series.items() if len(values)
        }  # fmt: skip
        low = min(float(values.min()) for values in series.values())
        high = max(float(values.max()) for values in series.values())
        bars = int(np.clip(max(len(values) for values in series.values()) ** 0.5, 8, 40))
        if self.log:
            edges = np.geomspace(low, max(high, low + 1), bars + 1)
        else:
            edges = np.linspace(low, high if high > low else low + 1, bars + 1)
        edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
        return edges.tolist(), {
            name: np.histogram(values, bins=edges)[0].tolist() for name, values in series.items()
        }

    def ticks(self, edges: Sequence[float]) -> list[float]:
        """Round values to write below the axis."""
        import numpy as np

        low, high = edges[0], edges[-1]
        if self.log:
            rounded = (first * 10**power for power in range(8) for first in (1, 2, 5))
            ticks = [float(tick) for tick in rounded if low <= tick <= high]
        else:
            step = 10 ** np.floor(np.log10(max(high - low, 1e-9)))
            # The power of ten is at most the width, which is less than ten of it: twice it makes five parts or fewer.
            step = next(step * part for part in (0.2, 0.25, 0.5, 1, 2) if (high - low) / (step * part) <= 8)
            ticks = [
                float(round(tick, 6)) for tick in np.arange(np.ceil(low / step), high / step + 1e-9) * step
            ]
        return ticks or [low, high]


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines through points (x, y), by their names; `dashed` are those that were planned, not measured."""

    name: str
    title: str
    across: str
    up: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    dashed: frozenset[str] = frozenset()

    def colors(self) -> dict[str, int]:
        """The number of each line's color: a dashed one has that of the line before it."""
        numbers, last = dict[str, int](), -1
        for name in self.series:
            last += name not in self.dashed
            numbers[name] = max(last, 0)
        return numbers


@dataclass(frozen=True, slots=True)
class Grid:
    """Numbers by two labels, shaded by how large they are."""

    name: str
    title: str
    across: str
    down: str
    cells: Mapping[tuple[str, str], int]
    """(down, across) to the number."""

    def labels(self) -> tuple[list[str], list[str]]:
        """The labels down and across, in the order in which they come up."""
        return (
            list(dict.fromkeys(down for down, _ in self.cells)),
            list(dict.fromkeys(across for _, across in self.cells)),
        )


@dataclass(frozen=True, slots=True)
class Sunburst:
    """Two rings: how often each of the inner ones comes, and each of its own outer ones."""

    name: str
    title: str
    rings: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Scatter:
    """Points in a square of side 1, in groups by their names."""

    name: str
    title: str
    groups: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)


Chart = Bars | Histogram | Lines | Grid | Sunburst | Scatter
