"""Quotas: which rows of a value are taken, what is said of each value, and values that there are not."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from magpie.data.select import Refiltered
from magpie.errors import FilterError
from magpie.recipe import Filter
from magpie.report.filter_tables import print_funnel
from magpie.steps.filter import FilterStep, QuotaGroup, check, decide, quota_groups

ROWS = pa.table(
    {
        "id": ["a", "b", "c", "d", "e", "f"],
        "index": pa.array(range(6), pa.int64()),
        "rejected": pa.array([None] * 5 + ["too short"], pa.string()),
        "task_category": ["Math", "Math", "Math", "Coding & Debugging", None, "Math"],
        "reward": [1.0, 3.0, 2.0, 9.0, 5.0, 99.0],
        "length": [5, 1, 9, 3, 2, 99],
    }
)


def filter_with(quotas: dict[str, Any], **more: Any) -> Filter:
    return Filter(quotas={"by": "task_category", **quotas}, **more)


def kept(filter: Filter) -> list[str]:
    reasons = decide(filter, filter.rules, ROWS).table(ROWS)["rejected"].to_pylist()
    return [row for row, reason in zip("abcde", reasons, strict=False) if reason is None]


def test_the_best_of_each_value_are_taken_by_an_order_of_their_own() -> None:
    assert kept(filter_with({"each": 1})) == ["a", "d", "e"]  # the first
    assert kept(filter_with({"each": 1, "order": "reward"})) == ["b", "d", "e"]
    assert kept(filter_with({"each": 1, "order": "-reward"})) == ["a", "d", "e"]
    # The quotas take the best by their order, and the top is taken of what they left.
    top = {"by": "length", "n": 2, "order": "desc"}
    assert kept(filter_with({"each": 1, "order": "reward"}, top=top)) == ["d", "e"]
    assert kept(filter_with({"each": 1}, top=top)) == ["c", "d"]
    with pytest.raises(FilterError, match=r"`quotas\.order` reads 'rewrd'.*did you mean 'reward'"):
        check(filter_with({"each": 1, "order": "rewrd"}), ROWS.schema)


def test_runs_made_before_there_was_an_order_keep_their_fingerprints() -> None:
    without = FilterStep(filter_with({"each": 1}), ())
    assert without.settings["quotas"] == {"by": "task_category", "each": 1, "counts": {}}
    assert FilterStep(filter_with({"each": 1, "order": "reward"}), ()).settings["quotas"]["order"] == "reward"


def test_it_is_said_which_values_filled_their_quota() -> None:
    filter = filter_with({"each": 1, "counts": {"Math": 2, "Editing": 5}})
    reasons = decide(filter, (), ROWS).table(ROWS)["rejected"]
    earlier = ROWS["rejected"].to_pylist()
    reasons = pa.chunked_array(
        [[first or then for first, then in zip(earlier, reasons.to_pylist(), strict=True)]]
    )
    groups = quota_groups(filter, ROWS, reasons)
    assert groups == (
        QuotaGroup("Math", 2, 3, 2),
        QuotaGroup(None, 1, 1, 1),
        QuotaGroup("Coding & Debugging", 1, 1, 1),
        QuotaGroup("Editing", 5, 0, 0),
    )
    said = StringIO()
    print_funnel(Refiltered(4, 0, (), (), groups=groups), Console(file=said, width=80))
    assert "quotas filled: Math 2 of 2, (no value) 1 of 1, Coding & Debugging 1 of 1" in said.getvalue()
    assert "quotas not filled: Editing 0 of 5" in said.getvalue()


def test_a_category_that_there_is_not_is_named() -> None:
    with pytest.raises(FilterError, match="'Maths', which is no task_category; did you mean 'Math'"):
        check(filter_with({"counts": {"Maths": 2}}), ROWS.schema)
    check(Filter(quotas={"by": "lower(task_category)", "counts": {"maths": 2}}), ROWS.schema)
