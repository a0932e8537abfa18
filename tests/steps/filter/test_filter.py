"""Rules, quotas and the top: which rows stay, why the others go, and that pushing rules down changes neither."""

from __future__ import annotations

import datetime
import random
from typing import Any

import pyarrow as pa
import pytest
from recording import run

from magpie.errors import FilterError
from magpie.recipe import Filter, Quotas, Rule, Top
from magpie.steps.base import GlobalStep, RowStep
from magpie.steps.filter import FilterStep, PrefilterStep, applicable, check, funnel, split

GOOD = Rule(name="good", where="input_quality IN ('good', 'excellent')")
LONG = Rule(name="long", where="response_length > 3")


def table(**columns: Any) -> pa.Table:
    """Rows as a step is given them: `rejected` is null unless it is given."""
    count = len(next(iter(columns.values())))
    given: dict[str, Any] = {
        "id": pa.array([f"row-{at}" for at in range(count)], pa.string()),
        "index": pa.array(range(count), pa.int64()),
        "rejected": pa.nulls(count, pa.string()),
    }
    return pa.table(given | columns)


def reasons(filter: Filter, rows: pa.Table) -> list[str | None]:
    return run(FilterStep(filter, filter.rules), rows)["rejected"].to_pylist()


def kept(filter: Filter, rows: pa.Table) -> list[int]:
    return [at for at, reason in enumerate(reasons(filter, rows)) if reason is None]


def test_both_are_steps() -> None:
    assert isinstance(PrefilterStep((GOOD,)), RowStep)
    assert isinstance(FilterStep(Filter(), ()), GlobalStep)


@pytest.mark.parametrize(
    ("where", "stay"),
    [
        ("response_length + 5 > 10", [1]),
        ("year(made) >= 2000 AND date_trunc('month', made) = made", [0]),
        ("len(range(response_length)) > 3", [1]),
        ("extract(day FROM made + INTERVAL 1 DAY) = 2", [0]),
    ],
)
def test_operators_and_dates_are_of_the_row(where: str, stay: list[int]) -> None:
    """They share a name with functions that are not."""
    days = pa.array([datetime.date(2024, 2, 1), datetime.date(1999, 12, 31), None])
    rows = table(response_length=[3, 9, None], made=days)
    rule = Rule(name="rule", where=where)
    check(Filter(rules=(rule,)), rows.schema)
    assert kept(Filter(rules=(rule,)), rows) == stay


def test_a_row_goes_by_the_first_rule_it_fails_and_null_fails() -> None:
    rows = table(
        input_quality=["good", "poor", None, "excellent", "poor"],
        response_length=[9, 9, 9, 1, None],
        rejected=pa.array([None, None, None, None, "clean: empty"]),
    )
    assert reasons(Filter(rules=(GOOD, LONG)), rows) == [
        None, "filter: good", "filter: good", "filter: long", None,
    ]  # fmt: skip


def test_only_rows_that_passed_the_rules_before_are_evaluated() -> None:
    number = Rule(name="a number", where="regexp_matches(a, '^[0-9]+$')")
    large = Rule(name="large", where="a::INT > 5")
    assert kept(Filter(rules=(number, large)), table(a=["7", "seven", "3", None])) == [0]
    with pytest.raises(FilterError, match=r"rule 'large' fails: Conversion Error.*TRY_CAST"):
        reasons(Filter(rules=(large, number)), table(a=["7", "seven"]))


def test_nan_counts_as_null() -> None:
    rows = table(reward=[float("nan"), -11.0, 2.0])
    assert kept(Filter(rules=(Rule(name="reward", where="reward >= -10"),)), rows) == [2]


def test_names_and_text_may_hold_anything() -> None:
    rule = Rule(name='it\'s "fine"; --', where="\"order\" LIKE '%ü''%' -- and no more")
    rows = table(order=["ü'", "u", "日本ü'x\x00"])
    assert reasons(Filter(rules=(rule,)), rows) == [None, 'filter: it\'s "fine"; --', None]
    assert FilterStep(Filter(), (rule,)).reads == ("order",)


def test_top_keeps_the_largest_with_nulls_last_and_ties_by_index() -> None:
    rows = table(response_length=[5, 9, None, 9, 1, 9])
    assert kept(Filter(top=Top(by="response_length", n=2)), rows) == [1, 3]
    assert kept(Filter(top=Top(by="response_length", n=2, order="asc")), rows) == [0, 4]
    assert kept(Filter(top=Top(by="RESPONSE_LENGTH % 9", n=3)), rows) == [0, 1, 4]
    assert kept(Filter(top=Top(by="response_length", n=5)), rows) == [0, 1, 3, 4, 5]
    assert kept(Filter(top=Top(by="response_length", n=99)), rows) == [0, 1, 2, 3, 4, 5]


def test_quotas_follow_the_order_of_the_top_or_of_the_index() -> None:
    rows = table(kind=["a", "a", "b", None, "a", None, "b"], length=[1, 5, 2, 3, 4, 9, 8])
    each = Quotas(by="kind", each=1)
    assert kept(Filter(quotas=each), rows) == [0, 2, 3]
    assert kept(Filter(quotas=each, top=Top(by="length", n=2)), rows) == [5, 6]
    assert reasons(Filter(quotas=each, top=Top(by="length", n=2)), rows)[0:2] == [
        "filter: quota",
        "filter: top",
    ]
    assert kept(Filter(quotas=Quotas(by="kind", counts={"a": 2})), rows) == [0, 1, 2, 3, 5, 6]
    assert kept(Filter(quotas=Quotas(by="kind", counts={"a": 2}, each=0)), rows) == [0, 1]
    assert kept(Filter(quotas=Quotas(by="length > 3", counts={"true": 1}, each=2)), rows) == [0, 1, 2]
    assert kept(Filter(quotas=Quotas(by="kind", each=10**30)), rows) == list(range(len(rows)))


def test_no_rows_and_no_live_rows_are_fine() -> None:
    filter = Filter(rules=(LONG,), quotas=Quotas(by="kind", each=1), top=Top(by="response_length", n=1))
    columns = {"kind": pa.array([], pa.string()), "response_length": pa.array([], pa.int32())}
    assert reasons(filter, table(**columns)) == []
    rows = table(kind=["a"], response_length=[9], rejected=["clean: empty"])
    assert reasons(filter, rows) == [None]


def test_pushing_rules_down_keeps_the_same_rows_for_the_same_reasons() -> None:
    draw = random.Random(7)
    rows = table(
        input_quality=[draw.choice(["poor", "good", "excellent", None]) for _ in range(500)],
        response_length=[draw.randrange(12) for _ in range(500)],
        rejected=pa.array([draw.choice([None, None, "clean: empty"]) for _ in range(500)]),
    )
    filter = Filter(
        rules=(LONG, GOOD), quotas=Quotas(by="input_quality", each=60), top=Top(by="response_length", n=100)
    )
    early, late = split(filter, {"id", "index", "input_quality"})
    assert (early, late) == ((GOOD,), (LONG,))
    first = run(PrefilterStep(early), rows)["rejected"].to_pylist()
    merged = [old or new for old, new in zip(rows["rejected"].to_pylist(), first, strict=True)]
    pushed = rows.set_column(2, "rejected", pa.array(merged, pa.string()))
    second = run(FilterStep(filter, late), pushed)["rejected"].to_pylist()
    at_once = run(FilterStep(filter, (*early, *late)), rows)["rejected"].to_pylist()
    assert [a or b for a, b in zip(first, second, strict=True)] == at_once
    lines = funnel(filter, pushed.set_column(2, "rejected", pa.array(_or(merged, second))), {"input_quality"})
    assert [line.name for line in lines] == ["good", "long", "quota", "top"]
    assert lines[-1].left == len([row for row in _or(merged, second) if row is None]) == 100


def _or(first: list[str | None], second: list[str | None]) -> list[str | None]:
    return [a or b for a, b in zip(first, second, strict=True)]


def test_the_funnel_adds_up() -> None:
    rows = pa.table({"rejected": ["clean: empty", None, "filter: good", "filter: top", "filter: good", None]})
    filter = Filter(rules=(GOOD, LONG), top=Top(by="response_length", n=2))
    lines = funnel(filter, rows)
    assert [(line.name, line.rows_in, line.lost, line.left) for line in lines] == [
        ("good", 5, 2, 3), ("long", 3, 0, 3), ("top", 3, 1, 2),
    ]  # fmt: skip
    assert funnel(Filter(), pa.table({"rejected": pa.array([None], pa.string())})) == ()
    with pytest.raises(FilterError, match="'top'"):
        funnel(Filter(rules=(GOOD,)), rows)


SCHEMA = pa.schema(
    [("id", pa.string()), ("index", pa.int64()), ("instruction", pa.string()), ("input_quality", pa.string()),
     ("response_length", pa.int32()), ("other_task_categories", pa.list_(pa.string()))]
)  # fmt: skip


def rule(where: str, name: str = "mine") -> Filter:
    return Filter(name="f", rules=(Rule(name=name, where=where),))


@pytest.mark.parametrize(
    ("filter", "says"),
    [
        (rule("input_qualty = 'good'"), "filter 'f': rule 'mine' reads 'input_qualty'.*did you mean 'input_quality'?"),
        (rule("zzz = 1"), "reads 'zzz', a column the run does not have; it has id, index, instruction"),
        (rule("current_date > '2020-01-01'"), "reads 'current_date'"),
        (rule("rowid > 1"), "reads 'rowid'"),
        (rule("input_quality = "), "filter 'f': rule 'mine' is not one SQL expression"),
        (rule("random() > 0.5"), r"filter 'f': rule 'mine' uses random\(\)"),
        (rule("lenght(instruction) > 3"), "filter 'f': rule 'mine' fails: Catalog Error"),
        (rule("instruction > 3 + 'x'"), "filter 'f': rule 'mine' fails"),
        (rule("instruction"), "rule 'mine' is of type VARCHAR; write a condition"),
        (rule("true", name="top"), "two things are called 'top'"),
        (Filter(rules=(GOOD, GOOD)), "two things are called 'good'"),
        (Filter(top=Top(by="reward", n=1)), "`top.by` reads 'reward'"),
        (Filter(quotas=Quotas(by="count(*)", each=1)), "`quotas.by` uses count_star"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(filter: Filter, says: str) -> None:
    with pytest.raises(FilterError, match=says) as refused:
        check(filter, SCHEMA)
    assert "\n" not in str(refused.value)


def test_a_sound_filter_passes() -> None:
    check(
        Filter(
            rules=(
                GOOD,
                Rule(name="case does not matter", where='Length("INSTRUCTION") > 3'),
                Rule(name="lists", where="list_contains(other_task_categories, 'Math')"),
            ),
            quotas=Quotas(by="input_quality", each=3),
            top=Top(by="response_length / 2 - index", n=3),
        ),
        SCHEMA,
    )


def test_a_rule_for_columns_that_may_be_missing_is_left_out_and_said_to_be() -> None:
    reward = Rule(name="reward", where="reward_difference > 0", when_present=True)
    kept_filter, skipped = applicable(Filter(rules=(reward, GOOD)), SCHEMA)
    assert kept_filter.rules == (GOOD,) and skipped == ("reward (reads reward_difference)",)
    scored = SCHEMA.append(pa.field("reward_difference", pa.float32()))
    assert applicable(Filter(rules=(reward, GOOD)), scored) == (Filter(rules=(reward, GOOD)), ())
    must = Filter(rules=(Rule(name="reward", where="reward_difference > 0"),))
    assert applicable(must, SCHEMA) == (must, ())


def test_steps_read_no_column_they_do_not_need() -> None:
    filter = Filter(
        rules=(GOOD, LONG, Rule(name="first", where="index < 9")),
        quotas=Quotas(by="task_category", each=1),
        top=Top(by="length(response)", n=1),
    )
    assert PrefilterStep((GOOD,)).reads == ("input_quality",)
    assert FilterStep(filter, (LONG,)).reads == ("response", "response_length", "task_category")
    assert FilterStep(Filter(), (filter.rules[2],)).reads == ()


def test_settings_follow_what_decides_and_nothing_else() -> None:
    one = FilterStep(Filter(name="a", rules=(GOOD,)), (GOOD,))
    other = FilterStep(Filter(name="b", description="x", rules=(GOOD, LONG)), (GOOD,))
    assert one.settings == other.settings
    assert one.settings != FilterStep(Filter(top=Top(by="index", n=3)), (GOOD,)).settings
    assert PrefilterStep((GOOD,)).settings != PrefilterStep((LONG,)).settings
