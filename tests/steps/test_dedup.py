import json

import numpy as np
import pyarrow as pa
import pytest
from recording import SCRIPTED
from recording import run as run_step

from magpie.engines.embedder import scripted_vectors, unit
from magpie.errors import ModelError, StoppedError
from magpie.neighbors.order import first_before
from magpie.neighbors.vectors import UnitVectors
from magpie.plan import BuildTools
from magpie.recipe import Dedup
from magpie.steps.base import NOTE, GlobalStep
from magpie.steps.dedup import REPEAT, DedupStep

THRESHOLD = 0.05


def table(vectors, *, rejected=(), index=None, chunks=1):
    count = len(vectors)
    values = [None if vector is None else np.asarray(vector, np.float32) for vector in vectors]
    columns = {
        "id": pa.array([f"r{n}" for n in range(count)], pa.string()),
        "index": pa.array(range(count) if index is None else index, pa.int64()),
        "rejected": pa.array(["no" if n in rejected else None for n in range(count)], pa.string()),
        "embedding": pa.array(values, pa.list_(pa.float32())),
    }
    whole = pa.table(columns)
    step = max(1, -(-count // chunks))
    return pa.concat_tables([whole.slice(n, step) for n in range(0, max(count, 1), step)])


def run(rows, threshold=THRESHOLD, *, keep="first", **searches):
    result = run_step(DedupStep(Dedup(threshold=threshold, keep=keep), **searches), rows)
    return {name: result[name].to_pylist() for name in result.schema.names}


def brute_force(rows, threshold=THRESHOLD, *, order=None):
    """The same columns by the definition: all pairs, in float64, one row after the other.

    `order` lists the places of the live rows, by index, in the order in which they are considered.
    """
    count = rows.num_rows
    at = [n for n, reason in enumerate(rows["rejected"].to_pylist()) if reason is None]
    at.sort(key=lambda n: rows["index"][n].as_py())
    vectors = np.array([rows["embedding"][n].as_py() for n in at], np.float32)
    if at:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    distances = np.array(
        [np.square(np.float64(vectors) - vector).sum(axis=1) for vector in np.float64(vectors)]
    )
    names = ("min_neighbor_distance", "min_similar_id", "repeat_count", "duplicate_of", "rejected")
    expected = {"id": rows["id"].to_pylist()} | {name: [None] * count for name in names}
    kept = []
    for place, n in enumerate(at):
        others = np.where(np.arange(len(at)) == place, np.inf, distances[place])
        if len(at) > 1:
            expected["min_neighbor_distance"][n] = float(np.float32(others.min()))
            expected["min_similar_id"][n] = f"r{at[int(others.argmin())]}"
        expected["repeat_count"][n] = int((others < threshold).sum())
    for place in range(len(at)) if order is None else order:
        near = [other for other in kept if distances[place][other] < threshold]
        if near:
            expected["rejected"][at[place]] = REPEAT
            expected["duplicate_of"][at[place]] = f"r{at[near[0]]}"
        else:
            kept.append(place)
    return expected


def on_circle(*degrees):
    angles = np.deg2rad(np.float64(degrees))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def planted(count, width, seed, *, spreads=(0.0, 0.001, 0.02, 0.05)):
    """Random vectors, half of them near earlier ones, so that pairs, groups and chains of all kinds arise."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, width))
    for row in range(1, count):
        if rng.random() < 0.5:
            spread = rng.choice(spreads) * np.sqrt(width)
            step = rng.standard_normal(width)
            source = vectors[rng.integers(row)]
            vectors[row] = source + spread * np.linalg.norm(source) / np.sqrt(width) * step / np.linalg.norm(
                step
            )
    return vectors


@pytest.mark.parametrize(("count", "width", "seed"), [(400, 64, 1), (400, 3, 2), (150, 2, 3), (300, 384, 4)])
def test_everything_equals_brute_force(count, width, seed):
    rng = np.random.default_rng(seed)
    rejected = set(rng.choice(count, count // 5, replace=False).tolist())
    rows = table(planted(count, width, seed), rejected=rejected, index=rng.permutation(count), chunks=7)
    assert run(rows) == brute_force(rows)


def test_repeats_of_any_radius_equal_brute_force():
    rows = table(planted(500, 8, 5), chunks=3)
    expected = brute_force(rows)
    assert run(rows) == expected
    assert max(expected["repeat_count"]) > 3
    for threshold in (0.5, 1.99, 3.0):
        assert run(rows, threshold=threshold) == brute_force(rows, threshold=threshold)


def test_the_longest_instruction_of_a_group_is_kept():
    rng = np.random.default_rng(10)
    rows = table(planted(300, 16, 10), index=rng.permutation(300), chunks=3)
    texts = ["x" * length for length in rng.integers(1, 30, 300).tolist()]
    by_index = np.argsort(rows["index"].to_numpy())
    order = sorted(range(300), key=lambda place: (-len(texts[by_index[place]]), place))
    found = run(rows.append_column("instruction", [texts]), keep="longest")
    assert found == brute_force(rows, order=order)


def test_the_best_instruction_of_a_group_is_kept_and_one_without_a_tag_last():
    qualities = ["very poor", None, "good", "good", "excellent", "average"]
    rows = table([[1, 0]] * 4 + [[0, 1]] * 2).append_column("input_quality", [qualities])
    found = run(rows, keep="best_quality")
    assert found["duplicate_of"] == ["r2", "r2", None, "r2", None, "r4"]
    assert found["rejected"] == [REPEAT, REPEAT, None, REPEAT, None, REPEAT]


@pytest.mark.parametrize("pairs", ["exact", "approximate"])
def test_an_approximate_search_that_looks_everywhere_equals_brute_force(pairs):
    rows = table(planted(40, 16, 11))
    assert run(rows, pairs=pairs, nearest="approximate") == brute_force(rows)


def test_an_approximate_search_leaves_a_note_of_its_recall():
    rows = table(planted(3000, 32, 12))
    result = run_step(DedupStep(Dedup(), "exact", "approximate"), rows)
    note = json.loads(result.schema.metadata[NOTE])
    assert note["pair_recall"] is None
    assert note["nearest_recall"] > 0.8
    exact = run(rows)
    assert result["rejected"].to_pylist() == exact["rejected"]
    assert result["repeat_count"].to_pylist() == exact["repeat_count"]
    for found, true in zip(
        result["min_neighbor_distance"].to_pylist(), exact["min_neighbor_distance"], strict=True
    ):
        assert found == true or found > max(true, THRESHOLD)
    assert run_step(DedupStep(Dedup()), rows).schema.metadata is None


def test_no_rows_one_row_and_only_rejected_rows():
    assert run(table([])) == brute_force(table([]))
    alone = run(table([[1, 0], [1, 0]], rejected={0}))
    assert alone["min_neighbor_distance"] == [None, None]
    assert alone["min_similar_id"] == [None, None]
    assert alone["repeat_count"] == [None, 0]
    assert alone["rejected"] == [None, None]
    assert run(table([[1, 0], None], rejected={0, 1}))["repeat_count"] == [None, None]


def test_equal_vectors_keep_the_first_and_name_it():
    found = run(table([[0.3, 0.4, 0.5]] * 50))
    assert found["min_neighbor_distance"] == [0.0] * 50
    assert found["min_similar_id"] == ["r1"] + ["r0"] * 49
    assert found["repeat_count"] == [49] * 50
    assert found["rejected"] == [None] + [REPEAT] * 49


def test_the_lowest_index_is_kept_whatever_the_order_of_rows():
    assert run(table([[1, 0]] * 3, index=[5, 2, 9]))["rejected"] == [REPEAT, None, REPEAT]


def test_a_chain_drops_only_what_is_near_a_kept_row():
    # 10 degrees apart are a squared distance of 0.030, 20 degrees of 0.121.
    assert run(table(on_circle(0, 10, 20)))["rejected"] == [None, REPEAT, None]
    assert run(table(on_circle(0, 10, 20, 30, 40)))["rejected"] == [None, REPEAT, None, REPEAT, None]
    assert run(table(on_circle(10, 0, 20)))["rejected"] == [None, REPEAT, REPEAT]
    assert run(table(on_circle(0, 10, 20)))["repeat_count"] == [1, 2, 1]


def test_a_rejected_row_shields_and_shadows_nobody():
    found = run(table(on_circle(0, 0, 10, 90), rejected={0}))
    assert found["rejected"] == [None, None, REPEAT, None]
    assert found["min_similar_id"] == [None, "r2", "r1", "r2"]


def test_a_distance_equal_to_the_threshold_is_no_repeat():
    axes = np.vstack([np.eye(8), -np.eye(8)])
    assert run(table(axes), threshold=2.0)["repeat_count"] == [0] * 16
    assert run(table(axes), threshold=2.0001)["repeat_count"] == [14] * 16
    assert run(table(axes), threshold=4.0)["repeat_count"] == [14] * 16
    assert run(table([[1, 0]] * 3), threshold=0.0)["rejected"] == [None] * 3


def test_distances_near_zero_are_exact():
    rng = np.random.default_rng(6)
    base = rng.standard_normal(384)
    rows = table([base, base + 1e-6 * rng.standard_normal(384), base + 1e-4 * rng.standard_normal(384)])
    found, expected = run(rows), brute_force(rows)
    assert 0 < found["min_neighbor_distance"][0] < 1e-11
    assert found == expected


def test_many_neighbours_almost_equally_near_are_told_apart():
    rng = np.random.default_rng(9)
    around = rng.standard_normal(64)
    vectors = np.concatenate([around + 1e-4 * rng.standard_normal((40, 64)), rng.standard_normal((40, 64))])
    rows = table(np.concatenate([vectors, vectors[30:50]]))
    assert run(rows) == brute_force(rows)


def test_half_precision_embeddings_are_made_unit_length_again():
    vectors = planted(60, 32, 8).astype(np.float16)
    rows = table(vectors).set_column(3, "embedding", pa.array(list(vectors), pa.list_(pa.float16())))
    assert run(rows) == brute_force(rows)


@pytest.mark.parametrize("bad", [[0, 0], [np.nan, 1], [np.inf, 1]])
def test_a_vector_without_a_direction_names_its_row(bad):
    with pytest.raises(ModelError, match="the embedding of row r3 is zero or not finite; set"):
        run(table([[1, 0], [0, 1], [0, 0], bad], rejected={2}, chunks=2))


@pytest.mark.parametrize("bad", [None, [], [1, 2, 3]])
def test_a_vector_that_is_missing_or_of_another_width_is_an_error(bad):
    for chunks in (1, 3):
        with pytest.raises(ModelError, match="no embedding, or one of another width; run"):
            run(table([[1, 0], [0, 1], bad], chunks=chunks))


def test_rows_near_another_dataset_are_out_first_and_say_of_which(tmp_path):
    texts = ["bake some bread", "sing a song", "bake some bread", "count to ten", "sing a song", "fly"]
    known = tmp_path / "known.jsonl"
    known.write_text('{"text": "play chess"}\n{"id": "old-7", "text": "SING A SONG"}\n')
    vectors = unit(scripted_vectors(texts)).astype(np.float16)
    rows = table(vectors, rejected={4})
    rows = rows.set_column(3, "embedding", pa.array(list(vectors), pa.list_(pa.float16())))
    step = DedupStep(Dedup(against=str(known)), embedder=SCRIPTED)
    found = run_step(step, rows)
    assert found["duplicate_of"].to_pylist() == [None, "old-7", "r0", None, None, None]
    assert found["rejected"].to_pylist() == [None, f"{REPEAT} of {known}", REPEAT, None, None, None]
    assert found["repeat_count"].to_pylist() == [1, None, 1, 0, None, 0]
    assert found["min_similar_id"].to_pylist()[:3] == ["r2", None, "r0"]
    before, tools = step.fingerprint(BuildTools()), BuildTools()
    known.write_text('{"text": "fly"}\n')
    assert step.fingerprint(tools) != before
    known.write_text('{"text": "sing"}\n')  # a build reads it once, and rejects by what is in the fingerprint
    found = run_step(step, rows, tools=tools)
    assert found["duplicate_of"].to_pylist() == [None, None, "r0", None, None, f"{known}:1"]


def test_one_row_near_a_dataset_takes_its_likes_with_it_but_not_what_is_merely_near_them():
    # 10 degrees apart are a squared distance of 0.030, 20 degrees of 0.121.
    units = UnitVectors.of(np.float32(on_circle(0, 10, 20, 30)))
    assert first_before(units, 1, 0.05).tolist() == [0, -1, -1]
    assert first_before(units, 2, 0.05).tolist() == [1, -1]
    assert first_before(units, 2, 0.5).tolist() == [0, 0]
    assert first_before(units, 0, 0.5).tolist() == [-1] * 4


def test_it_is_a_global_step():
    step = DedupStep(Dedup())
    assert isinstance(step, GlobalStep)
    assert step.settings == {
        "threshold": 0.05,
        "keep": "first",
        "pairs": "exact",
        "nearest": "exact",
    }
    assert step.fingerprint(BuildTools()) == {**step.settings, "against": {}}
    assert DedupStep(Dedup(keep="longest")).reads == ("embedding", "instruction")


def test_it_says_how_far_it_is_and_stops_when_told():
    said = []
    rows = table(planted(50, 8, 13))
    run_step(DedupStep(Dedup()), rows, on_progress=lambda *told: said.append(told))
    assert {what for what, _, _ in said} == {"comparing all pairs", "nearest neighbours", "keeping in order"}
    assert all(0 < done <= total for _, done, total in said)

    def stop(what, done, total):
        raise StoppedError("the build was stopped")

    with pytest.raises(StoppedError):
        run_step(DedupStep(Dedup()), rows, on_progress=stop)
