"""Rows that somebody looks for: by a text, by a rule, the worst; in a run, half a run, and a dataset."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from typed import typed

import magpie
from magpie.errors import FilterError, RunError
from magpie.report.search import RunSource, Search, show_found
from magpie.runs.run import Run
from magpie.terminal import new_console


def shown(place: Path, **options: Any) -> str:
    """What is printed; `test_the_command_...` sees that the command prints the same."""
    screen = StringIO()
    magpie.show(place, console=new_console(file=screen, width=140), **options)
    return screen.getvalue()


def ids(printed: str) -> list[str]:
    return re.findall(r"small-\w+-\d{8}", printed)


def expected(run: Run, where: str, order: str = '"index"') -> list[str]:
    """The ids that DuckDB itself finds among the kept rows."""
    rows = run.table(rejected=False)
    rows = rows.select([name for name in rows.column_names if not pa.types.is_nested(rows[name].type)])
    return [
        found[0] for found in duckdb.sql(f"SELECT id FROM rows WHERE {where} ORDER BY {order}").fetchall()
    ]


def test_a_rule_finds_what_duckdb_finds_page_by_page(finished: Run) -> None:
    where = "response_length > 150 AND task_category <> 'Math'"
    wanted = expected(finished, where)
    assert len(wanted) > 4
    pages = [shown(finished.folder, where=where, n=3, page=page) for page in (1, 2)]
    assert ids(pages[0]) + ids(pages[1]) == wanted[:6]
    assert f"rows 1 to 3 of {len(wanted)} found; the next: --page 2" in pages[0]
    assert "none on page 99" in shown(finished.folder, where=where, page=99)
    every = ids(shown(finished.folder, where=where, n=500, seed=3))
    assert sorted(every) == sorted(wanted) and every != wanted  # at random


def test_a_text_is_found_in_any_turn_whatever_its_case(finished: Run) -> None:
    kept = finished.table(rejected=False).to_pylist()

    def says(row: dict[str, object]) -> bool:
        turns = [turn["content"] for turn in row["later_turns"] or []]
        return "WOODEN DOOR" in "\n".join([row["instruction"], row["response"], *turns]).upper()

    wanted = [row["id"] for row in kept if says(row)]
    assert ids(shown(finished.folder, grep="WOODEN d..r", n=500)) == wanted
    assert "no row is found" in shown(finished.folder, grep="no such words")


def test_the_worst_come_first_and_rows_without_a_value_last(finished: Run) -> None:
    by_length = ids(shown(finished.folder, worst="response_length", n=4))
    assert by_length == expected(finished, "true", 'response_length, "index"')[:4]
    longest = ids(shown(finished.folder, worst="-response_length", n=4))
    assert longest == expected(finished, "true", 'response_length DESC, "index"')[:4]
    printed = shown(finished.folder, worst="input_quality", n=1)
    assert "input_quality average" in printed  # the lowest of the scale that the filter keeps
    repeats = ids(shown(finished.folder, worst="repeat_count", n=2))
    assert repeats == expected(finished, "true", 'repeat_count DESC, "index"')[:2]


def test_rejected_rows_are_looked_through_with_their_reasons(finished: Run) -> None:
    out = [
        row for row in finished.table().to_pylist() if row["rejected"] and (row["response_length"] or 0) > 0
    ]
    printed = shown(finished.folder, rejected=True, where="response_length > 0", n=500)
    assert ids(printed) == [row["id"] for row in out]
    assert f"out: {out[0]['rejected']}" in printed


def test_a_dataset_is_looked_through_too(finished: Run) -> None:
    where = "response_length > 150 AND NOT contains(instruction, 'poem')"
    printed = shown(finished.folder / "dataset", where=where, worst="turns", n=3)
    assert ids(printed) == expected(finished, where, 'turns, "index"')[:3]
    assert ids(shown(finished.folder / "dataset", grep="garden", n=1))


def test_an_unfinished_run_is_looked_through_as_far_as_it_is(half: Run) -> None:
    assert len(ids(shown(half.folder, where="length(instruction) > 0", n=500))) > 50
    assert "no row is found" in shown(half.folder, where="response_length > 0")


@pytest.mark.parametrize(
    ("search", "error", "message"),
    [
        (Search(grep="(open"), RunError, "is no regular expression"),
        (Search(where="nosuch > 1"), FilterError, "reads 'nosuch', a column the run does not have"),
        (Search(where="random() > 0.5"), FilterError, "does not follow from the row alone"),
        (Search(worst="nosuch"), RunError, "no column 'nosuch'"),
        (Search(worst="instruction"), RunError, "no numbers and no scale"),
    ],
)
def test_what_cannot_be_asked_is_said(
    finished: Run, search: Search, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with (tmp_path / "screen").open("w") as screen, pytest.raises(error, match=message):
        show_found(RunSource(finished), search, new_console(file=screen))


def test_the_command_takes_all_of_these(finished: Run) -> None:
    words = (
        "--grep",
        "garden",
        "--where",
        "response_length > 60",
        "--worst=-response_length",
        "--n",
        "2",
        "--page",
        "2",
    )
    printed = typed("show", finished.folder, *words, "--page", "2")
    options = {
        "grep": "garden",
        "where": "response_length > 60",
        "worst": "-response_length",
        "n": 2,
        "page": 2,
    }
    assert printed == shown(finished.folder, **options)
    assert "leave out --grep" in typed_error(finished)


def typed_error(run: Run) -> str:
    with pytest.raises(RunError) as raised:
        magpie.show(run, 3, grep="garden")
    return str(raised.value)
