"""The columns of a dataset explained: a table for the terminal, and the page `docs/columns.md`.

`python -m magpie.report.columns > docs/columns.md` writes the page anew; a test holds it current.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from magpie.data.magpie_form import PUBLISHED
from magpie.report.text import as_text
from magpie.runs.catalogue import Explanation, explain_everything, type_name
from magpie.terminal import print_line

if TYPE_CHECKING:
    from rich.console import Console

_OPENING = """\
# Columns

What a run and its dataset hold, column by column. This page is made from the steps' own descriptions:
`python -m magpie.report.columns > docs/columns.md` writes it anew. `magpie columns RUN` prints the same for one run or
dataset, `--json` for programs. A run has the columns of the steps in its recipe and no others.
"""
_IN_DATASET = """
## In the dataset

{table}
`steer_variable` stands for one column a variable of `steer`, such as `steer_persona`. Names that begin with `second_`
are those of a second judge.
"""
_IN_RUN = """
## In the run, or on demand

These stay in the run (`run.table()`, `magpie show RUN ID`, the rules of filters), or are made when they are asked for:
`magpie export RUN --format messages --columns difficulty,instruct_system_prompt,generator_engine ...`. The
files of a run do not change for later turns, lengths, `uuid`, `finish_reason` and `license`: these follow from the row.
Datasets that are imported or merged have the first texts, their lengths and what is known of licences in their files
([datasets.md](datasets.md)).

{table}"""
_PUBLISHED = """
## As the published Magpie datasets have them

`magpie export RUN --format magpie` writes these, under these names and in this order. What a run does not have is null;
`--drop-empty` leaves it out.

{table}"""


def print_columns(columns: Sequence[Explanation], console: Console) -> None:
    """Print each column with its type, what makes it, and its meaning."""
    table = Table(box=None, pad_edge=False, expand=False)
    for heading in ("column", "made by", "meaning"):
        table.add_column(heading, overflow="fold")
    for here in (True, False):
        listed = [column for column in columns if column.in_dataset is here]
        if not here and listed:
            table.add_row("", "", "")
            table.add_row(as_text("not in the dataset:", "bold"), "", "")
        for column in listed:
            renamed = column.published is not None and column.published != column.name
            meaning = as_text(column.meaning or "(a column of the file's own)")
            if renamed:
                meaning.append_text(as_text(f" Published as {column.published}.", "dim"))
            name = as_text(column.name, "cyan").append_text(as_text(f"\n{column.type}", "dim"))
            table.add_row(name, as_text(column.step), meaning)
    console.print(table)


def page() -> str:
    """The page `docs/columns.md`."""
    columns = explain_everything()
    kept, inner = ([column for column in columns if column.in_dataset is here] for here in (True, False))
    published = _table(
        ("column", "type", "made from"),
        [
            (
                f"`{column.name}`",
                type_name(column.kind),
                f"`{column.made_from}`" if " " not in column.made_from else column.made_from,
            )
            for column in PUBLISHED
        ],
    )
    return (
        _OPENING
        + _IN_DATASET.format(table=_listing(kept))
        + _IN_RUN.format(table=_listing(inner))
        + _PUBLISHED.format(table=published)
    )


def _listing(columns: Sequence[Explanation]) -> str:
    rows = [
        (
            f"`{column.name}`",
            column.type,
            column.step,
            f"`{column.published}`" if column.published else "",
            column.meaning,
        )
        for column in columns
    ]
    return _table(("column", "type", "made by", "published as", "meaning"), rows)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


if __name__ == "__main__":
    print_line(page().rstrip("\n"))
