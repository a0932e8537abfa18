"""Results of filters, printed: the funnel, what each rule lost, and how two filters compare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from magpie.escaping import one_line
from magpie.report.judges import print_agreement
from magpie.report.text import as_text
from magpie.text import counted

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.data.select import FilterComparison, Refiltered
    from magpie.figures.agreement import Agreement
    from magpie.steps.filter import QuotaGroup


def print_funnel(result: Refiltered, console: Console, agreement: Iterable[Agreement] = ()) -> None:
    """Print rows in, rows lost and rows left, rule by rule.

    An explained result also has what each rule would lose alone, the share of that which it lost here, and the first
    rows that it lost. `agreement` says how well the judges agree on the columns that the rules read.
    """
    table = Table(box=None, pad_edge=False)
    more_headings = ("lost alone", "of alone") if result.explained else ()
    for heading in ("rule", "rows in", "lost", "left", *more_headings):
        table.add_column(heading, justify="left" if heading == "rule" else "right")
    explained = result.explained or (None,) * len(result.lines)
    for line, explanation in zip(result.lines, explained, strict=True):
        cells = [f"{line.rows_in:,}", f"{line.lost:,}", f"{line.left:,}"]
        if explanation is not None:
            cells.append("–" if explanation.alone is None else f"{explanation.alone:,}")
            cells.append("–" if explanation.share is None else f"{explanation.share:.0%}")
        table.add_row(as_text(line.name), *cells)
    console.print(table)
    print_groups(result.groups, console)
    for explanation in result.explained:
        if explanation.examples:
            heading_line = Text("\nlost by ").append_text(as_text(explanation.line.name, "bold"))
            console.print(heading_line, soft_wrap=True)
        for row_id, instruction in explanation.examples:
            example = as_text(f"  {one_line(row_id)}  ", "dim")
            example.append_text(_on_one_line(instruction, max(40, console.width - len(example))))
            console.print(example, soft_wrap=True)
    _print_never_answered(result.never_answered, console)
    print_agreement(agreement, console)
    _print_skipped(result.skipped, result.what, console)


def print_groups(groups: Iterable[QuotaGroup], console: Console) -> None:
    """Print which quotas were filled, and which fell short of their number."""
    limited = [group for group in groups if group.quota]  # 0 leaves a value out, which is no quota to fill
    filled = [group for group in limited if group.kept >= (group.quota or 0)]
    short = [group for group in limited if group.kept < (group.quota or 0)]
    for heading, some in (("quotas filled", filled), ("quotas not filled", short)):
        if some:
            texts = (f"{_value(group)} {group.kept:,} of {group.quota:,}" for group in some)
            console.print(as_text(f"{heading}: {', '.join(texts)}"), soft_wrap=True)


def _value(group: QuotaGroup) -> str:
    return "(no value)" if group.value is None else one_line(group.value)


def print_comparison(comparison: FilterComparison, console: Console) -> None:
    """Print the rows kept by both filters, by one alone and by neither, and the Jaccard index of the two."""
    first, second = comparison.names
    if first == second:
        first, second = f"the first {first}", f"the second {second}"
    table = Table(box=None, pad_edge=False)
    for heading in ("kept by", "rows"):
        table.add_column(heading, justify="left" if heading == "kept by" else "right")
    table.add_row("both", f"{comparison.both:,}")
    table.add_row(Text("only ").append_text(as_text(first)), f"{comparison.only[0]:,}")
    table.add_row(Text("only ").append_text(as_text(second)), f"{comparison.only[1]:,}")
    table.add_row("neither", f"{comparison.neither:,}")
    console.print(table)
    overlap = "–, neither keeps a row" if comparison.jaccard is None else f"{comparison.jaccard:.3f}"
    console.print(f"Jaccard index: {overlap}", highlight=False)
    _print_never_answered(comparison.never_answered, console)
    for skipped in dict.fromkeys(comparison.skipped):
        _print_skipped(skipped, comparison.what, console)


def _on_one_line(instruction: str, width: int) -> Text:
    if not instruction:
        return Text("(no instruction)", "dim")
    return as_text(one_line(instruction, width), "not dim")


def _print_never_answered(rows: int, console: Console) -> None:
    if rows:
        console.print(
            f"out because the build's own filter dropped them before they were answered: {counted(rows, 'row')}; "
            "for all rows, build with --set respond.rows=all, or without a filter",
            highlight=False,
            soft_wrap=True,
        )


def _print_skipped(skipped: Iterable[str], what: str, console: Console) -> None:
    for rule in skipped:
        console.print(
            f"left out, {what} has no such column: {rule}", highlight=False, markup=False, soft_wrap=True
        )
