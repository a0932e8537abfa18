"""What became of the rows of a dataset that was imported, merged, split or exported, printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from magpie.escaping import one_line
from magpie.report.text import as_text
from magpie.text import counted

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.data.left_out import LeftOut


def print_rows(
    rows_in: int, rows_out: int, left_out: Sequence[LeftOut], where: object, console: Console
) -> None:
    """Print how many rows came, how many are in `where`, and each reason for the others with the first of them."""
    lost = sum(one.rows for one in left_out)
    if lost:
        console.print(f"{counted(rows_in, 'row')} in, {lost:,} left out:", highlight=False)
    for one in left_out:
        more = ", ..." if one.rows > len(one.examples) else ""
        line = as_text(f"  {one.rows:>9,}  {one.reason}")
        if one.examples:
            line.append_text(as_text(f" ({', '.join(map(one_line, one.examples))}{more})", "dim"))
        console.print(line, soft_wrap=True)
    console.print(f"{counted(rows_out, 'row')} in {where}", highlight=False, markup=False, soft_wrap=True)
