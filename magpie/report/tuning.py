"""The result of tune, printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from magpie.report.text import as_text

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.doctor.measures import Mean
    from magpie.doctor.tune import Tuning


def print_tuning(tuning: Tuning, console: Console) -> None:
    """Print the figures of each cell, the notes, and the lines to paste into a recipe."""
    title = Text(f"{tuning.model}, judged by {tuning.judge}; ± is a standard error", style="table.title")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    headings = (
        "", "T", "top_p", "valid", "quality", "difficulty", "nearest\nneighbour", "repeats", "distinct\n1, 2",
        "first\nwords", "tokens\n/s",
    )  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    for cell in tuning.cells:
        near, sample = cell.neighbors, cell.sample
        table.add_row(
            Text("●" if cell.is_best else "", "green"),
            f"{cell.draw.temperature:g}",
            f"{cell.draw.top_p:g}",
            _figure(sample.valid, percent=True),
            _figure(cell.quality),
            _figure(cell.difficulty),
            "" if near is None else _figure(near.distance, digits=3),
            "" if near is None else _figure(near.duplicates, percent=True),
            f"{sample.distinct_1:.2f}\n{sample.distinct_2:.2f}",
            f"{sample.distinct_first_words:.2f}",
            f"{sample.tokens_per_second:,.0f}",
        )
    console.print(table)
    for note in tuning.notes:
        console.print(Text("note ", "yellow").append_text(as_text(note, "default")))
    axes = " and ".join(tuning.axes) or "anything measured"
    console.print(
        f"● best: no other setting is better by {axes}. To paste:\n", highlight=False, soft_wrap=True
    )
    console.print(Text(tuning.mix), soft_wrap=True)


def _figure(mean: Mean, *, percent: bool = False, digits: int = 2) -> str:
    if not mean.rows:
        return "—"
    if percent:
        return f"{mean.value:.1%}\n± {mean.error:.1%}"
    return f"{mean.value:.{digits}f}\n± {mean.error:.{digits}f}"
