"""Charts are drawn of whatever numbers there are."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magpie.drawing.charts import Histogram
from magpie.drawing.inline import svg


@pytest.mark.parametrize("tenths", range(1, 120))
def test_a_histogram_of_any_width_has_a_few_round_ticks(tenths: int) -> None:
    chart = Histogram("widths", "Widths", "points", {"all": [0.3, 0.3 + tenths / 10]}, log=False)
    ticks = chart.ticks(chart.counted()[0])
    assert 2 <= len(ticks) <= 9 and ticks == sorted(set(ticks))


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=30),
    log=st.booleans(),
)
def test_a_histogram_of_any_numbers_is_drawn(values: list[float], log: bool) -> None:
    drawn = svg(Histogram("any", "Any", "points", {"all": values}, log=log))
    assert "<svg" in drawn and "nan" not in drawn
