"""Near pairs and nearest neighbours, against brute force: every pair, by subtraction, in float64."""

import numpy as np
import pytest

from magpie.neighbors import vectors
from magpie.neighbors.cells import Cells, choose_probes, search_cells
from magpie.neighbors.exact import Best, all_nearest, near_pairs
from magpie.neighbors.order import keep_in_order
from magpie.neighbors.sketch import Sketch
from magpie.neighbors.survey import survey
from magpie.neighbors.vectors import NoDirectionError, UnitVectors, first_occurrences, in_parallel

QUICK = pytest.mark.parametrize("quick", [False, True], ids=["float32", "bfloat16"])


def random_vectors(count, width, seed=0, dtype=np.float16):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(dtype)


def with_repeats(count, width, seed=0, *, share=0.5, dtype=np.float16):
    """Random vectors, a share of them near others at distances below and above 0.05."""
    rng = np.random.default_rng(seed)
    made = rng.standard_normal((count, width))
    chosen, sources = (
        rng.choice(count, int(share * count), replace=False),
        rng.integers(0, count, int(share * count)),
    )
    away = rng.standard_normal((len(chosen), width)) * rng.choice([0, 1e-4, 0.1, 0.2, 0.3], (len(chosen), 1))
    made[chosen] = made[sources] + away
    return made.astype(dtype)


def distances(units):
    whole = units[:].astype(np.float64)
    return np.array([np.square(whole - one).sum(axis=1) for one in whole])


def listed(pairs):
    found = [(i, j) for rows, others, _ in pairs for i, j in zip(rows.tolist(), others.tolist(), strict=True)]
    assert len(found) == len(set(found))
    return set(found)


def expected(table, threshold):
    return set(zip(*(at.tolist() for at in np.nonzero(np.triu(table < threshold, 1))), strict=True))


@QUICK
@pytest.mark.parametrize("threshold", [0.0, 0.05, 1.97, 3.5])
@pytest.mark.parametrize(("count", "width", "dtype"), [(1300, 96, np.float16), (1100, 3, np.float32)])
def test_near_pairs_are_those_of_brute_force(count, width, dtype, threshold, quick):
    units = UnitVectors.of(with_repeats(count, width, dtype=dtype))
    table = distances(units)
    found = list(near_pairs(units, threshold, quick=quick))
    assert listed(found) == expected(table, threshold)
    for i, j, apart in found:
        np.testing.assert_allclose(apart, table[i, j], rtol=0, atol=1e-12)


@QUICK
def test_nearest_neighbours_are_those_of_brute_force(quick):
    for count, width in ((2200, 96), (1500, 3), (300, 16)):
        units = UnitVectors.of(with_repeats(count, width, dtype=np.float32))
        table = distances(units)
        np.fill_diagonal(table, np.inf)
        distance, nearest = all_nearest(units, quick=quick)
        np.testing.assert_allclose(distance, table.min(axis=1), rtol=0, atol=1e-12)
        np.testing.assert_allclose(table[np.arange(count), nearest], table.min(axis=1), rtol=0, atol=1e-12)
        assert (nearest == table.argmin(axis=1)).mean() > 0.99


@QUICK
def test_exact_ties_at_the_threshold_are_out_and_those_a_hair_below_it_in(quick):
    axes = UnitVectors.of(np.vstack([np.eye(24), -np.eye(24)]).astype(np.float32))
    assert listed(near_pairs(axes, 2.0, quick=quick)) == set()
    assert len(listed(near_pairs(axes, 2.0 + 1e-9, quick=quick))) == 48 * 46 // 2
    assert len(listed(near_pairs(axes, 4.0, quick=quick))) == 48 * 46 // 2
    units = UnitVectors.of(random_vectors(60, 16))
    table = distances(units)
    for threshold in table[np.triu_indices(60, 1)][::177]:
        for nudged in (threshold * (1 - 1e-12), threshold * (1 + 1e-12)):
            assert listed(near_pairs(units, nudged, quick=quick)) == expected(table, nudged)


@QUICK
def test_crowds_of_almost_equal_vectors_are_told_apart(quick):
    rng = np.random.default_rng(3)
    around = rng.standard_normal(48) + 1e-3 * rng.standard_normal((1500, 48))
    units = UnitVectors.of(np.concatenate([around, rng.standard_normal((200, 48))]).astype(np.float32))
    table = distances(units)
    assert listed(near_pairs(units, 0.05, quick=quick)) == expected(table, 0.05)
    np.fill_diagonal(table, np.inf)
    distance, nearest = all_nearest(units, quick=quick)
    np.testing.assert_array_equal(nearest, table.argmin(axis=1))
    np.testing.assert_allclose(distance, table.min(axis=1), rtol=1e-9)


@QUICK
def test_keeping_in_order_is_greedy(quick):
    units = UnitVectors.of(with_repeats(2300, 8, seed=4))
    table = distances(units)
    repeats = keep_in_order(units, 0.05, quick=quick)
    kept = []
    for row in range(len(units)):
        near = [other for other in kept if table[row, other] < 0.05]
        assert repeats[row] == (near[0] if near else -1)
        if not near:
            kept.append(row)
    assert 100 < len(kept) < len(units) - 100


@pytest.mark.parametrize("count", [0, 1])
def test_no_vector_and_one_vector(count):
    units = UnitVectors.of(random_vectors(count, 64))
    assert listed(near_pairs(units, 4.0)) == set()
    assert keep_in_order(units, 4.0).tolist() == [-1] * count
    found = survey(units, 0.05, pairs="approximate", nearest="approximate")
    assert np.isnan(found.distance).tolist() == [True] * count
    assert found.count.tolist() == [0] * count


def test_all_equal():
    units = UnitVectors.of(np.tile(random_vectors(1, 64), (20_000, 1)))
    found = survey(units, 0.05)
    assert len(units) == 1
    assert set(found.count.tolist()) == {19_999}
    assert not found.distance.any()
    assert found.nearest.tolist() == [1] + [0] * 19_999


def test_many_vectors_take_threads_and_give_the_same():
    made = with_repeats(vectors.LARGE + 300, 64, seed=5, share=0.1)
    units = UnitVectors.of(made)
    found = list(near_pairs(units, 0.05))
    assert listed(found) == listed(near_pairs(units, 0.05, quick=False))
    whole = units[:]
    rows = np.random.default_rng(0).choice(len(units), 400, replace=False)
    table = 2 - 2 * whole[rows].astype(np.float64) @ whole.T.astype(np.float64)
    ours = listed(found)
    for at, row in enumerate(rows.tolist()):
        near = {int(other) for other in np.flatnonzero(table[at] < 0.05) if other != row}
        assert near == {i + j - row for i, j in ours if row in {i, j}}


def test_cells_find_what_their_probes_come_to():
    units = UnitVectors.of(with_repeats(4000, 32, seed=6))
    table = distances(units)
    cells = Cells.of(units, cells=50)
    all_of_them = search_cells(units, cells, 32, threshold=0.05)
    assert len(listed(all_of_them)) >= 0.999 * len(expected(table, 0.05))
    best = Best.empty(len(units))
    few = listed(search_cells(units, cells, 2, threshold=0.05, best=best))
    assert few <= expected(table, 0.05)
    true = expected(table, 0.05)
    rows, others = (np.array(side) for side in zip(*sorted(true), strict=True))
    reached = np.minimum(cells.rank(rows, others), cells.rank(others, rows)) <= 2
    assert few == {
        pair for pair, is_reached in zip(sorted(true), reached.tolist(), strict=True) if is_reached
    }


def test_the_number_of_probes_is_chosen_by_measured_recall():
    units = UnitVectors.of(with_repeats(4000, 32, seed=7))
    cells = Cells.of(units, cells=60)
    found = choose_probes(units, cells, 0.05, pairs=0.999, nearest=None)
    assert found.pairs is not None
    assert found.pairs > 0.99
    assert found.nearest is None
    easy = choose_probes(units, cells, 0.05, pairs=None, nearest=0.3)
    assert easy.probes < choose_probes(units, cells, 0.05, pairs=None, nearest=0.99).probes
    true = len(expected(distances(units), 0.05))
    assert len(listed(search_cells(units, cells, found.probes, threshold=0.05))) > 0.99 * true


def test_equal_vectors_are_named_by_their_first():
    made = random_vectors(300, 7)
    made[[5, 80, 299]] = made[3]
    made[200] = made[100]
    first = np.arange(300)
    first[[5, 80, 299]], first[200] = 3, 100
    assert first_occurrences(UnitVectors.of(made)).tolist() == first.tolist()


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_vector_without_a_direction_is_named(bad):
    made = random_vectors(20, 4)
    made[13] = [0, 0, bad, 0]
    with pytest.raises(NoDirectionError) as raised:
        UnitVectors.of(made)
    assert raised.value.position == 13


@QUICK
def test_a_sketch_never_says_farther_than_it_is(quick):
    for made in (random_vectors(500, 384), with_repeats(500, 60), random_vectors(500, 20)):
        units = UnitVectors.of(made)
        for whole in (False, True):
            sketch = Sketch.of(units, near=None if whole else 0.05, quick=quick)
            values = np.asarray(sketch.values.float(), np.float64)
            products, true = values @ values.T, 1 - distances(units) / 2
            assert (products > true - sketch.slack).all()
            assert not whole or (products < true + sketch.slack).all()


def test_sketches_are_as_short_as_vectors_allow():
    rng = np.random.default_rng(5)
    # Directions drawn evenly are told apart by many dimensions; where the first ones say most, few are enough.
    even = rng.standard_normal((3000, 384)).astype(np.float32)
    few = (even / np.arange(1, 385) ** 0.6).astype(np.float32)
    lengths = [
        Sketch.of(UnitVectors.of(made), near=0.05, quick=False).values.shape[1] for made in (few, even)
    ]
    assert lengths[0] < lengths[1] <= 48
    for made in (few[:900], even[:900]):
        near = made[:200] + rng.normal(0, 0.01, (200, 384)).astype(np.float32)
        units = UnitVectors.of(np.concatenate([made, near]))
        assert listed(near_pairs(units, 0.05, quick=False)) == expected(distances(units), 0.05)


def test_the_best_neighbour_does_not_depend_on_how_offers_come():
    rng = np.random.default_rng(6)
    rows, others = rng.integers(0, 40, 4000), rng.integers(0, 1000, 4000)
    # Distances with many ties, exact ones and such as rounding leaves.
    apart = rng.integers(0, 60, 4000) / 64 + rng.choice([0, 3e-13], 4000)
    best = Best.empty(1000)
    for part in np.array_split(np.arange(4000), 37):
        best.offer(rows[part], others[part], apart[part])
    for row in range(40):
        mine = rows == row
        tied = mine & (apart <= apart[mine].min() + 1e-12)
        assert best.nearest[row] == others[tied].min()
        assert best.distance[row] == pytest.approx(apart[mine].min(), rel=0, abs=1e-12)


def test_a_task_that_fails_ends_the_others():
    done = []

    def work(task):
        if task == 3:
            raise ValueError("three")
        done.append(task)
        return task

    for rows in (1, vectors.LARGE):
        done.clear()
        with pytest.raises(ValueError, match="three"):
            list(in_parallel(work, range(1000), rows=rows))
        assert len(done) < 100
