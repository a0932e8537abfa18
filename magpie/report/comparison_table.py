"""Sets compared, printed: what each is, what they share, and which differences are no noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from magpie.execution.counts import clock
from magpie.figures.comparison_texts import OF_VERBS
from magpie.report.text import as_text
from magpie.text import counted

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.figures.bootstrap import Difference
    from magpie.figures.comparison import Comparison, Figure, Side


def print_sets(comparison: Comparison, console: Console) -> None:
    """Print the sets, each figure of all of them with its difference from the first, and how much they share.

    A difference that is more than noise is marked with an asterisk.
    """
    _print_facts(comparison, console)
    console.print()
    _print_figures(comparison, console)
    console.print()
    _print_across(comparison, console)
    names = ", ".join(dict.fromkeys(figure.name for figure in comparison.findings))
    found = counted(len(comparison.findings), "figure")
    verdict = (
        f"{found} of {len(comparison.figures)} beyond noise: {names}"
        if names
        else "no difference beyond noise"
    )
    console.print(as_text(verdict, "bold"), soft_wrap=True)
    first = comparison.sets[0].name
    sized = ", ".join(
        figure.name for figure in comparison.figures if figure.sized and figure.name not in OF_VERBS
    )
    notes = [
        f"Differences are from {first}; all their intervals hold together at 95 %. * is beyond noise.",
        f"Of {comparison.drawn:,} rows each: {sized}.",
    ]
    if comparison.parsed:
        notes.append(
            f"Of {comparison.parsed:,} instructions each, as spaCy parses them: {', '.join(OF_VERBS)}."
        )
    if comparison.embedder is not None:
        notes.append(
            f"Near: squared distance of instructions below {comparison.threshold:g}; covered: below "
            f"{comparison.covers:g}; by {comparison.embedder}, at most {comparison.sample:,} rows of a set."
        )
    for note in notes:
        console.print(as_text(note, "dim"), soft_wrap=True)


def _print_facts(comparison: Comparison, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    costs = any(each.cost is not None for each in comparison.sets)
    for heading in ("set", "rows", "of", "tokens", "at work", *(["cost"] if costs else [])):
        table.add_column(heading, justify="left" if heading == "set" else "right", overflow="fold")
    for each in comparison.sets:
        cells = [
            f"{each.rows:,}",
            "" if each.made is None else f"{each.made:,}",
            "" if each.tokens is None else f"{each.tokens:,}",
            "" if each.hours is None else clock(each.hours * 3600),
        ]
        table.add_row(as_text(each.name), *cells, *([_dollars(each.cost)] if costs else []))
    console.print(table)


def _print_figures(comparison: Comparison, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("figure", overflow="fold")
    for number, each in enumerate(comparison.sets):
        table.add_column(as_text(each.name), justify="right", overflow="fold")
        if number:
            table.add_column("difference", justify="right", overflow="fold")
    for figure in comparison.figures:
        cells: list[Text] = []
        for number, side in enumerate(figure.sides):
            cells.append(Text(_value(figure, side)))
            if number:
                cells.append(_difference(figure, figure.differences[number - 1]))
        table.add_row(as_text(figure.name), *cells)
    console.print(table)


def _print_across(comparison: Comparison, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    headings = (
        "rows of",
        "in",
        "the same",
        *(("near", "covered") if comparison.embedder is not None else ()),
    )
    for heading in headings:
        table.add_column(
            heading, justify="left" if heading in {"rows of", "in"} else "right", overflow="fold"
        )
    for each in comparison.across:
        shares = [each.same, *((each.near, each.covered) if comparison.embedder is not None else ())]
        table.add_row(
            as_text(each.of), as_text(each.by), *("" if share is None else f"{share:.1%}" for share in shares)
        )
    console.print(table)


def _value(figure: Figure, side: Side | None) -> str:
    return "" if side is None else _number(side.value, figure)


def _difference(figure: Figure, difference: Difference | None) -> Text:
    if difference is None:
        return Text("")
    text = f"{_signed(difference.value, figure)}"
    if difference.low is None or difference.high is None:
        return Text(f"{text} (few rows)", "dim")
    half = (difference.high - difference.low) / 2
    mark = " *" if difference.differs else "  "
    return Text(f"{text} ± {_number(half, figure)}{mark}", "bold yellow" if difference.differs else "")


def _number(value: float, figure: Figure) -> str:
    return f"{value:.1%}" if figure.is_share else f"{value:,.4g}"


def _signed(value: float, figure: Figure) -> str:
    return f"{'+' if value >= 0 else '−'}{_number(abs(value), figure)}"


def _dollars(cost: float | None) -> str:
    return "" if cost is None else f"${cost:,.2f}"
