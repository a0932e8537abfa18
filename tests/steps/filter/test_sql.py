"""Expressions are read by DuckDB's own parser, and what does not follow from the row alone is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from magpie.errors import FilterError
from magpie.steps.filter.sql import RowValues, columns_read


@pytest.mark.parametrize(
    ("expression", "columns"),
    [
        ("a > 1", {"a"}),
        ("A > 1 AND \"Order\" = 'x'", {"a", "order"}),
        ('"select" = \'it\'\'s\' OR "a ""b""" IS NULL', {"select", 'a "b"'}),
        ("true", set()),
        ("age(a, b) > INTERVAL 1 DAY", {"a", "b"}),
        ("a BETWEEN b AND c", {"a", "b", "c"}),
        ("CASE WHEN a THEN b ELSE c END", {"a", "b", "c"}),
        ("box.width > 2 AND box['height'] < 3", {"box"}),
        ("instruction.length() > 3", {"instruction"}),
        ("len([x FOR x IN xs IF x > b]) > 1", {"xs", "b"}),
        ("len(list_filter(xs, lambda x: x > b)) > 1", {"xs", "b"}),
        ("len(list_filter(xs, lambda x, i: i > b)) > 1", {"xs", "b"}),
        ("data -> 'key' = '3'", {"data"}),
        (
            "list_sum(xs) > 1 AND list_contains(other_task_categories, 'Math')",
            {"xs", "other_task_categories"},
        ),
        ("split_part(a, ',', 1) = 'b' AND if(c, d, e)", {"a", "c", "d", "e"}),
        ("response_length + 5 > 10", {"response_length"}),
        ("-a < b - c AND a * b / c % 2 <> b // c", {"a", "b", "c"}),
        ("year(a) > 2000 AND date_trunc('month', b) = last_day(b)", {"a", "b"}),
        ("len(range(a)) > 3 AND range(3)[1] < b AND generate_series(1, c)[1] = 1", {"a", "b", "c"}),
        ("extract(year FROM a) = 1 AND a + INTERVAL 1 DAY > b AND datediff('day', a, b) > 1", {"a", "b"}),
        ("a > 1 -- b is for later", {"a"}),
        ("straße = 'ü' AND 列 = 1", {"straße", "列"}),
    ],
)
def test_columns_are_found(expression: str, columns: set[str]) -> None:
    assert columns_read(expression) == columns


@pytest.mark.parametrize(
    ("expression", "clause"),
    [
        ("", "not one SQL expression"),
        ("a >", "not one SQL expression"),
        ("a) OR (b", "not one SQL expression"),
        ("a; DROP TABLE run", "not one SQL expression"),
        ("a ORDER BY b", "not one SQL expression"),
        ("a, b", "not one SQL expression"),
        ("(" * 2000 + "a" + ")" * 2000, "not one SQL expression"),
        ("a IN (SELECT 1)", "a sub-query"),
        ("EXISTS (FROM run)", "a sub-query"),
        ("row_number() OVER () > 1", "a window function"),
        ("sum(a) > 1", "uses sum()"),
        ("SUM(a) > 1", "uses sum()"),
        ("weighted_avg(a, b) > 1", "uses weighted_avg()"),
        ("unnest(a) = 1", "uses unnest()"),
        ("random() < 0.5", "uses random()"),
        ("now() > a", "uses now()"),
        ("ago(INTERVAL 1 DAY) > a", "uses ago()"),
        ("a = uuid()", "uses uuid()"),
        ("age(a) > b", "age() of one date"),
        ("AGE(a::TIMESTAMP) > b", "age() of one date"),
        ("a.age() > b", "age() of one date"),
        ("main.age(a) > b", "age() of one date"),
        ("getvariable('x') = a", "uses getvariable()"),
        ("a > ?", "a parameter"),
        ("COLUMNS('a.*') > 1", "COLUMNS"),
        ("#1 > 2", "a column by its number"),
    ],
)
def test_what_is_not_a_value_of_the_row_is_refused(expression: str, clause: str) -> None:
    with pytest.raises(FilterError) as refused:
        columns_read(expression)
    assert clause in str(refused.value) and "\n" not in str(refused.value)


def test_values_are_in_row_order_and_only_of_live_rows() -> None:
    rows = pa.table({"index": range(6), "a": ["1", "x", "3", None, "5", "6"]})
    live = np.array([True, False, True, True, True, False])
    assert RowValues(rows, frozenset({"a"}), live).values("a::INT * 2").to_pylist() == [
        2,
        None,
        6,
        None,
        10,
        None,
    ]


def test_order_puts_nulls_and_nan_last_and_breaks_ties_by_index() -> None:
    rows = pa.table({"index": [3, 2, 1, 0, 4], "a": [1.0, 2.0, float("nan"), 2.0, None]})
    values = RowValues(rows, frozenset({"a"}))
    assert values.order("a").tolist() == [3, 1, 0, 2, 4]
    assert values.order("a", descending=False).tolist() == [0, 3, 1, 2, 4]
    assert values.order().tolist() == [3, 2, 1, 0, 4]


def test_half_precision_is_read_and_a_type_duckdb_does_not_know_is_a_filter_error() -> None:
    short = pa.array(np.array([1.5, np.nan, -3], np.float16))
    rows = pa.table({"index": range(3), "a": short, "b": [[one] for one in short]})
    values = RowValues(rows, frozenset({"a"}))
    assert values.values("a > 0").to_pylist() == [True, None, False]
    assert values.order("a").tolist() == [0, 2, 1]
    with pytest.raises(FilterError, match="fails: Not implemented"):
        RowValues(rows, frozenset({"b"})).values("b IS NULL")


@pytest.mark.parametrize("source", ["read_text('pyproject.toml')", "rows", "duckdb_settings()"])
def test_no_file_and_no_variable_of_the_process_is_in_reach(source: str) -> None:
    rows = pa.table({"index": [0]})
    with pytest.raises(FilterError):
        columns_read(f"1 IN (FROM {source})")
    if source != "duckdb_settings()":
        with pytest.raises(FilterError, match="fails"):
            RowValues(rows, frozenset()).values(f"(SELECT count(*) FROM {source})")


def test_a_failure_is_one_short_printable_line() -> None:
    rows = pa.table({"index": [0], "a": ["\x1b[31m" + "long " * 200 + "\nnext"]})
    with pytest.raises(FilterError) as failed:
        RowValues(rows, frozenset({"a"})).values("a::INT")
    assert str(failed.value).isprintable() and len(str(failed.value)) < 300
