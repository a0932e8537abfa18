from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from magpie.steps.base import REJECTED, live, seeds, spread

MILLION = np.arange(1_000_000)
ROWS = pa.table({"id": ["a", "b", "c"], "index": [0, 1, 2], "rejected": [None, "clean: empty", None]})
SCHEMA = pa.schema([pa.field("length", pa.int32()), REJECTED])


def test_seeds_are_31_bit_and_signed_64_on_the_way() -> None:
    drawn = seeds(42, "instruct", MILLION)
    assert drawn.dtype == np.int64
    assert drawn.min() >= 0
    assert drawn.max() < 2**31
    assert drawn.max() > 0.999 * 2**31


def test_seeds_of_a_million_rows_repeat_no_more_often_than_chance() -> None:
    """n draws of m values repeat about n^2 / 2m times: 233 here, with a standard deviation of 15."""
    repeats = len(MILLION) - len(np.unique(seeds(42, "instruct", MILLION)))
    assert 233 - 6 * 15 < repeats < 233 + 6 * 15


def test_every_bit_of_a_seed_is_as_often_set_as_not() -> None:
    drawn = seeds(42, "instruct", MILLION)
    shares = [((drawn >> bit) & 1).mean() for bit in range(31)]
    assert np.abs(np.array(shares) - 0.5).max() < 0.003


def test_neighbouring_rows_have_unrelated_seeds() -> None:
    drawn = seeds(42, "instruct", MILLION).astype(np.float64)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.006


@pytest.mark.parametrize(("run_seed", "purpose"), [(43, "instruct"), (42, "respond"), (4, "2/instruct")])
def test_seeds_depend_on_the_run_seed_and_the_purpose(run_seed: int, purpose: str) -> None:
    same = seeds(42, "instruct", MILLION) == seeds(run_seed, purpose, MILLION)
    assert same.sum() <= 5


def test_a_rows_seed_depends_on_nothing_else() -> None:
    whole = seeds(42, "instruct", MILLION)
    assert (seeds(42, "instruct", np.array([999_999, 7])) == whole[[999_999, 7]]).all()
    assert (seeds(42, "instruct", MILLION.astype(np.int32)[:10]) == whole[:10]).all()


def test_seeds_stay_what_they_are() -> None:
    """A run that goes on under a later version must draw the same seeds."""
    assert seeds(42, "instruct", np.array([0, 1, 2])).tolist() == [704392542, 1864856897, 427149688]


def test_no_rows_have_no_seeds() -> None:
    assert seeds(42, "instruct", np.array([], dtype=np.int64)).shape == (0,)


def test_live_are_the_positions_that_are_not_rejected() -> None:
    assert live(ROWS) == [0, 2]
    assert live(ROWS.slice(0, 0)) == []


def test_spread_puts_values_at_their_rows_and_null_elsewhere() -> None:
    result = spread(ROWS, [0, 2], {"length": [3, 4], "rejected": [None, "x: y"]}, SCHEMA)
    assert result.column_names == ["id", "length", "rejected"]
    assert result["length"].to_pylist() == [3, None, 4]
    assert result["rejected"].to_pylist() == [None, None, "x: y"]
    assert result["length"].type == pa.int32()


def test_spread_of_no_rows_has_the_columns_and_their_types() -> None:
    result = spread(ROWS, [], {"length": [], "rejected": []}, SCHEMA)
    assert result["length"].to_pylist() == [None, None, None]
    assert result.schema.field("length").type == pa.int32()
    assert spread(ROWS.slice(0, 0), [], {"length": [], "rejected": []}, SCHEMA).num_rows == 0


def test_spread_refuses_values_that_do_not_match_the_rows() -> None:
    with pytest.raises(ValueError, match="zip"):
        spread(ROWS, [0, 2], {"length": [3], "rejected": [None, None]}, SCHEMA)
    with pytest.raises(KeyError):
        spread(ROWS, [0], {"length": [3]}, SCHEMA)
