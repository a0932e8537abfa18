from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magpie.doctor.measures import Mean
from magpie.doctor.pareto import AXES, differ, dominates, pareto_front

GOOD, BAD = Mean(4.0, 0.1, 64), Mean(2.0, 0.1, 64)
NONE = Mean.of(())


def cell(valid: float, quality: float, distance: float, error: float = 0.02) -> dict[str, Mean]:
    return {
        axis: Mean(value, error, 128) for axis, value in zip(AXES, (valid, quality, distance), strict=True)
    }


def test_what_is_better_by_one_error_and_worse_by_none_dominates() -> None:
    low = cell(0.80, 3.0, 0.5)
    assert dominates(cell(0.9, 3.0, 0.5), low, AXES)
    assert not dominates(cell(0.82, 3.0, 0.5), low, AXES)  # within the error of the difference
    assert not dominates(cell(0.9, 2.99, 0.5), low, AXES)  # better, and a little worse
    assert dominates(cell(0.9, 2.99, 0.5), low, ("validity", "neighbor distance"))
    assert not dominates(low, low, AXES)


def test_what_could_not_be_measured_is_worst() -> None:
    measured, unmeasured = cell(0.9, 3.0, 0.5), cell(0.9, 3.0, 0.5) | {"quality": NONE}
    assert dominates(measured, unmeasured, AXES) and not dominates(unmeasured, measured, AXES)


def test_a_front_by_hand() -> None:
    cells = [cell(0.98, 3.2, 0.30), cell(0.95, 3.1, 0.40), cell(0.90, 2.6, 0.39), cell(0.60, 2.5, 0.55)]
    found = pareto_front(cells, plain=GOOD, shuffled=BAD)
    assert found.cells == (0, 1, 3) and found.axes == AXES and found.notes == ()


def test_a_judge_that_likes_shuffled_words_has_no_say() -> None:
    cells = [cell(0.9, 2.0, 0.3), cell(0.9, 4.0, 0.3), cell(0.9, 3.0, 0.5)]
    found = pareto_front(cells, plain=Mean(3.0, 0.1, 64), shuffled=Mean(2.9, 0.1, 64))
    assert found.axes == ("neighbor distance",) and found.cells == (2,)
    assert any("cannot tell good from bad" in note and "64 instructions 3.00" in note for note in found.notes)


def test_settings_that_nothing_tells_apart_are_all_in_front() -> None:
    found = pareto_front([cell(0.9, 3.0, 0.5), cell(0.91, 3.01, 0.49)], plain=GOOD, shuffled=BAD)
    assert found.cells == (0, 1) and found.axes == ()
    assert "larger --n" in found.notes[-1]


def test_without_an_embedder_the_front_is_of_what_is_known() -> None:
    cells = [cell(0.9, 4.0, 0) | {AXES[2]: NONE}, cell(0.9, 3.0, 0) | {AXES[2]: NONE}]
    found = pareto_front(cells, plain=GOOD, shuffled=BAD)
    assert found.cells == (0,) and any("could not be measured" in note for note in found.notes)


def test_one_cell_is_the_front() -> None:
    assert pareto_front([cell(0.9, 3.0, 0.5)], plain=GOOD, shuffled=BAD).cells == (0,)


figures = st.floats(0, 5) | st.just(math.nan)
cells_of = st.fixed_dictionaries(
    {axis: st.builds(Mean, figures, st.floats(0, 2), st.just(9)) for axis in AXES}
)


@given(st.lists(cells_of, min_size=1, max_size=8))
def test_a_front_is_never_empty(cells: list[dict[str, Mean]]) -> None:
    assert pareto_front(cells, plain=GOOD, shuffled=BAD).cells


@pytest.mark.parametrize("count", [2, 3, 6])
def test_chance_differs_one_time_in_twenty(count: int) -> None:
    draw = random.Random(count)
    trials = 4000
    found = sum(differ([Mean(draw.gauss(3, 0.2), 0.2, 99) for _ in range(count)]) for _ in range(trials))
    assert found / trials == pytest.approx(0.05, abs=0.015)


def test_what_differs_by_much_differs() -> None:
    assert differ([Mean(3, 0.1, 9), Mean(4, 0.1, 9)])
    assert differ([Mean(3, 0, 9), Mean(4, 0, 9)]) and not differ([Mean(3, 0, 9), Mean(3, 0, 9)])
    assert not differ([Mean(3, 0.1, 9), NONE]) and not differ([])
