"""What a filter did, for people: its funnel, what each rule lost, and how two filters compare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from magpie.data.escaping import one_line
from magpie.report.judges import print_agreement
from magpie.report.text import as_text

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.data.select import FilterComparison, Refiltered
    from magpie.figures.agreement import Agreement


def print_funnel(found: Refiltered, console: Console, agreement: Iterable[Agreement] = ()) -> None:
    """Rows in, rows lost and rows left, rule by rule.

    Where it was asked to explain, also what each rule would lose alone, which share of that it lost after the rules
    before it, and the first rows it lost. Last, how well the judges of the run agree on what the rules go by.
    """
    table = Table(box=None, pad_edge=False)
    for heading in ("rule", "rows in", "lost", "left", *(("lost alone", "share") if found.explained else ())):
        table.add_column(heading, justify="left" if heading == "rule" else "right")
    explained = found.explained or (None,) * len(found.lines)
    for line, more in zip(found.lines, explained, strict=True):
        cells = [f"{line.rows_in:,}", f"{line.lost:,}", f"{line.left:,}"]
        if more is not None:
            cells.append("–" if more.alone is None else f"{more.alone:,}")
            cells.append("–" if more.share is None else f"{more.share:.0%}")
        table.add_row(as_text(line.name), *cells)
    console.print(table)
    for one in found.explained:
        if one.examples:
            console.print(Text("\nlost by ").append_text(as_text(one.line.name, "bold")), soft_wrap=True)
        for row_id, instruction in one.examples:
            shown = as_text(f"  {one_line(row_id)}  ", "dim")
            shown.append_text(_shown(instruction, max(40, console.width - len(shown))))
            console.print(shown, soft_wrap=True)
    _print_never_answered(found.never_answered, console)
    print_agreement(agreement, console)
    _print_skipped(found.skipped, found.what, console)


def print_comparison(found: FilterComparison, console: Console) -> None:
    """Rows kept by both filters, by one alone and by neither, and the Jaccard index of the two."""
    one, other = found.names
    if one == other:
        one, other = f"the first {one}", f"the second {other}"
    table = Table(box=None, pad_edge=False)
    for heading in ("kept by", "rows"):
        table.add_column(heading, justify="left" if heading == "kept by" else "right")
    table.add_row("both", f"{found.both:,}")
    table.add_row(Text("only ").append_text(as_text(one)), f"{found.only[0]:,}")
    table.add_row(Text("only ").append_text(as_text(other)), f"{found.only[1]:,}")
    table.add_row("neither", f"{found.neither:,}")
    console.print(table)
    overlap = "–, neither keeps a row" if found.jaccard is None else f"{found.jaccard:.3f}"
    console.print(f"Jaccard index: {overlap}", highlight=False)
    _print_never_answered(found.never_answered, console)
    for skipped in dict.fromkeys(found.skipped):
        _print_skipped(skipped, found.what, console)


def _shown(instruction: str, width: int) -> Text:
    return (
        as_text(one_line(instruction, width), "not dim") if instruction else Text("(no instruction)", "dim")
    )


def _print_never_answered(rows: int, console: Console) -> None:
    if rows:
        console.print(
            f"{rows:,} rows are out because the build's own filter dropped them before they were "
            "answered; for all rows, build with --set respond.rows=all, or without a filter",
            highlight=False,
            soft_wrap=True,
        )


def _print_skipped(skipped: Iterable[str], what: str, console: Console) -> None:
    for rule in skipped:
        console.print(
            f"left out, {what} has no such column: {rule}", highlight=False, markup=False, soft_wrap=True
        )
