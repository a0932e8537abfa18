"""The saturation curve is counted, the estimate calibrated, and both follow from what dedup wrote."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from builds import scripted, small_recipe

from magpie.build import build
from magpie.errors import RunError
from magpie.figures.saturation import BLOCK, MOST_SETTINGS, Block, expected_new, saturation
from magpie.plan import make_plan
from magpie.runs.run import Run
from magpie.steps.dedup import REPEAT
from magpie.storage import MemoryStorage
from magpie.storage.sealed import Stamp, write_shard

THRESHOLD = 0.05


def write_run(
    near: list[int | None], new: list[bool], *, steered: list[str] | None = None, **changes: Any
) -> Run:
    """A run past dedup, written by hand; a row whose `near` is None was out before it."""
    plan = make_plan(small_recipe(rows=len(near), **changes))
    run = Run(MemoryStorage(), plan.recipe, plan.steps)
    rows = len(near)
    mix = run.recipe.instruct.mix
    drawn = [mix[at % len(mix)] for at in range(rows)]
    ids = pa.array([f"small-{at:08d}" for at in range(rows)])
    reasons = [
        REPEAT if here is not None and not kept else None for here, kept in zip(near, new, strict=True)
    ]
    sampling = {
        name: [getattr(draw, name) for draw in drawn] for name in ("temperature", "top_p", "top_k", "min_p")
    }
    columns = {
        "instruct": {**sampling, **({} if steered is None else {"steer_id": steered})},
        "dedup": {"repeat_count": near, "rejected": reasons},
    }
    for name, values in columns.items():
        step = run.step(name)
        schema = pa.schema([step.step.adds.field(column) for column in values])
        table = pa.table(values, schema=schema).add_column(0, "id", ids)
        for shard in range(run.shards):
            at = run.shard_range(shard)
            stamp = Stamp(name, shard, at.start, len(at), rows, "f", "a")
            write_shard(run.storage, run.shard_name(step, shard), table.slice(at.start, len(at)), stamp)
    return run


def in_groups(labels: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """What dedup would write for rows that are near one another when their labels are equal."""
    _, first, which, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    new = np.zeros(len(labels), bool)
    new[first] = True
    return counts[which] - 1, new


@pytest.mark.parametrize("repeat_rate", [0.0, 0.3, 0.9])
def test_the_curve_of_a_build_is_what_counting_gives(tmp_path: Path, repeat_rate: float) -> None:
    models = scripted(repeat_rate=repeat_rate, failure_rate=0.1)
    run = build(small_recipe(models=models, rows=240, tag=None, filter=None), tmp_path / "run")
    rows = run.table(["embedding", "temperature", "repeat_count"]).to_pylist()
    rows = [row for row in rows if row["repeat_count"] is not None]
    assert 0 < len(rows) < 240
    vectors = np.array([row["embedding"] for row in rows], np.float64)
    new = by_all_pairs(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[1].tolist()
    found = saturation(run)
    assert (found.rows, found.new) == (len(rows), sum(new))
    size = -(-len(rows) // 10)
    blocks = [new[at : at + size] for at in range(0, len(rows), size)]
    assert found.curve == tuple(Block(len(block), sum(block)) for block in blocks)
    assert [one.setting["temperature"] for one in found.by_sampling] == [1.0, 0.7]
    for one in found.by_sampling:
        drawn = [
            kept
            for row, kept in zip(rows, new, strict=True)
            if row["temperature"] == np.float32(one.setting["temperature"])
        ]
        assert (one.rows, one.new) == (len(drawn), sum(drawn))
    assert found.by_steering == ()


def test_planted_groups_by_hand(tmp_path: Path) -> None:
    """Ten rows came: groups of 1, 1, 1, 1, 2 and 4. Two rows were out before dedup."""
    near = [0, 1, None, 3, 0, 1, 3, 0, None, 3, 0, 3]
    new = [True, True, False, True, True, False, False, True, False, False, True, False]
    found = saturation(write_run(near, new, shard_rows=5))
    assert (found.rows, found.new, found.apart) == (10, 6, 1.0)
    assert [(block.rows, block.new) for block in found.curve] == [
        (1, int(kept)) for kept in (1, 1, 1, 1, 0, 0, 1, 0, 1, 0)
    ]
    assert (found.next.rows, found.next.new) == (10, 4 - 1 - 1)  # Φ1 - Φ2 + Φ3 - Φ4, at t = 1
    even, odd = found.by_sampling  # rows 0, 4, 6, 10 and rows 1, 3, 5, 7, 9, 11
    assert (even.rows, even.new, even.chance) == (4, 3, 0.75)
    assert (odd.rows, odd.new, odd.chance) == (6, 3, round(1 / 6, 6))
    assert odd.standard_error == pytest.approx((1 * (1 - 1 / 6) + 2 + 1) ** 0.5 / 6, abs=1e-6)
    assert json.loads(json.dumps(found.to_json()))["next"] == asdict(found.next)


def test_a_long_run_has_blocks_of_a_thousand_and_a_last_one_that_is_not_full(tmp_path: Path) -> None:
    rows = 10_450
    labels = np.random.default_rng(3).integers(0, 20_000, rows)
    near, new = in_groups(labels)
    found = saturation(write_run(near.tolist(), new.tolist(), shard_rows=700))
    assert [block.rows for block in found.curve] == [BLOCK] * 10 + [450]
    assert [block.new for block in found.curve] == [
        int(new[at : at + BLOCK].sum()) for at in range(0, rows, BLOCK)
    ]
    assert found.next.rows == BLOCK


@pytest.mark.parametrize("rows", [1, 2])
def test_a_row_or_two_say_next_to_nothing(tmp_path: Path, rows: int) -> None:
    found = saturation(build(small_recipe(rows=rows, filter=None), tmp_path / "run"))
    assert (found.rows, found.new, found.next.new) == (rows, rows, rows)
    assert found.curve == (Block(1, 1),) * rows
    assert found.next.standard_error > 1


def test_all_rows_the_same(tmp_path: Path) -> None:
    near, new = in_groups(np.zeros(5000, int))
    ahead = expected_new(near, new)
    assert (ahead.rows, ahead.new) == (1000, 0)
    assert ahead.standard_error < 1


def test_where_there_is_no_dedup_or_not_yet_the_reason_is_given(tmp_path: Path) -> None:
    without = build(small_recipe(embed=None, dedup=None, filter=None), tmp_path / "without")
    with pytest.raises(RunError, match="no step of the recipe says which rows are repeats"):
        saturation(without)
    early = build(small_recipe(), tmp_path / "early", stop_after="embed")
    with pytest.raises(RunError, match="not every row has come to dedup"):
        saturation(early)
    failing = build(small_recipe(models=scripted(failure_rate=1.0), filter=None), tmp_path / "failing")
    with pytest.raises(RunError, match="not one row"):
        saturation(failing)


WORLDS = {
    "few things to say": np.ones(2000),
    "very many": np.ones(1_000_000),
    "a long tail": 1 / np.arange(1, 200_001) ** 1.5,
    "a rut beside a wide field": np.concatenate([np.full(50, 0.2 / 50), np.full(500_000, 0.8 / 500_000)]),
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("rows", [300, 2000, 20_000])
def test_the_estimate_is_right_on_average_and_as_exact_as_it_says(world: str, rows: int) -> None:
    """Against what the next rows really were, over 60 runs drawn from known probabilities."""
    rng = np.random.default_rng(rows)
    likely = WORLDS[world] / WORLDS[world].sum()
    misses, errors = [], []
    for _ in range(60):
        drawn = rng.choice(len(likely), rows + BLOCK, p=likely)
        ahead = expected_new(*in_groups(drawn[:rows]))
        _, first = np.unique(drawn[: rows + ahead.rows], return_index=True)
        misses.append(ahead.new - int((first >= rows).sum()))
        errors.append(ahead.standard_error)
    error = float(np.mean(errors))
    assert abs(np.mean(misses)) < 4 * (error + 0.1) / 60**0.5
    assert np.mean(np.abs(misses) <= 2 * np.array(errors) + 0.5) > 0.85
    assert np.std(misses) > 0.6 * error or error < 2.5


def test_the_chance_of_each_setting_is_the_true_one(tmp_path: Path) -> None:
    """The even rows draw from few things, the odd ones from many."""
    rng = np.random.default_rng(11)
    misses = []
    for _ in range(20):
        labels = np.where(np.arange(3000) % 2, rng.integers(1000, 51_000, 3000), rng.integers(0, 1000, 3000))
        near, new = in_groups(labels)
        run = write_run(near.tolist(), new.tolist(), shard_rows=3000)
        for low, size, one in zip((0, 1000), (1000, 50_000), saturation(run).by_sampling, strict=True):
            seen = len(np.unique(labels[(labels >= low) & (labels < low + size)]))
            misses.append((one.chance - (1 - seen / size)) / one.standard_error)
    assert abs(np.mean(misses)) < 4 / 40**0.5
    assert 0.5 < np.std(misses) < 1.5


@pytest.mark.parametrize(("centres", "spread"), [(1500, 0.16), (300, 0.2), (30, 0.16)])
def test_where_groups_overlap_the_estimate_says_how_little_it_knows(centres: int, spread: float) -> None:
    """Clouds of vectors as wide as the threshold: repeats are near several kept rows, and Φ can only be guessed."""
    within = []
    for seed in range(8):
        vectors = clouds(np.random.default_rng(seed), centres, spread, rows=1200)
        near, new = by_all_pairs(vectors[:600])
        assert near[new].sum() > (~new).sum()
        ahead = expected_new(near, new)
        truth = by_all_pairs(vectors)[1][600:].sum()
        within.append(abs(ahead.new - truth) <= 2 * ahead.standard_error)
        assert ahead.standard_error < 0.2 * 600
    assert sum(within) >= 7


def clouds(rng: np.random.Generator, centres: int, spread: float, *, rows: int) -> np.ndarray[Any, Any]:
    """Unit vectors around some centres, the first of which are the likeliest."""
    middle = rng.standard_normal((centres, 32))
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    likely = 1 / np.arange(1, centres + 1)
    drawn = rng.choice(centres, rows, p=likely / likely.sum())
    vectors = middle[drawn] + spread * rng.standard_normal((rows, 32)) / 32**0.5
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_all_pairs(vectors: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """What dedup would write: how many others are near each vector, and whether it is new."""
    pairs = 2 - 2 * vectors @ vectors.T < THRESHOLD
    np.fill_diagonal(pairs, False)
    new = np.zeros(len(vectors), bool)
    for at in range(len(vectors)):
        new[at] = not (pairs[at, :at] & new[:at]).any()
    return pairs.sum(axis=1), new


def test_more_settings_than_can_be_told_apart_are_left_out(tmp_path: Path) -> None:
    mix = [{"temperature": 1 + at / 100} for at in range(MOST_SETTINGS + 1)]
    near, new = in_groups(np.arange(100))
    many = write_run(near.tolist(), new.tolist(), instruct={"mix": mix})
    assert saturation(many).by_sampling == ()
    few = write_run(near.tolist(), new.tolist(), instruct={"mix": mix[:-1]})
    assert [one.rows for one in saturation(few).by_sampling] == [5] * 20
    one = write_run(near.tolist(), new.tolist(), instruct={"mix": [mix[0], mix[0]]})
    assert saturation(one).by_sampling == ()


def test_each_steering_prompt_has_its_own_figures(tmp_path: Path) -> None:
    """By name, whichever comes first in the run and however the shards divide them."""
    labels = np.array([0, 1, 0, 2, 0, 3, 0, 4])
    near, new = in_groups(labels)
    steer = {"prompts": [{"id": "narrow", "text": "One thing."}, {"id": "broad", "text": "Anything."}]}
    given = ["narrow", "broad"] * 4
    run = write_run(near.tolist(), new.tolist(), steered=given, steer=steer, shard_rows=3)
    broad, narrow = saturation(run).by_steering
    assert [one.setting for one in (broad, narrow)] == [{"steer_id": "broad"}, {"steer_id": "narrow"}]
    assert (broad.rows, broad.new, broad.chance) == (4, 4, 1.0)
    assert (narrow.rows, narrow.new, narrow.chance) == (4, 1, 0.0)
    many = [f"prompt-{at}" for at in range(MOST_SETTINGS + 1)]
    near, new = in_groups(np.arange(len(many)))
    run = write_run(near.tolist(), new.tolist(), steered=many, steer=steer)
    assert saturation(run).by_steering == ()
