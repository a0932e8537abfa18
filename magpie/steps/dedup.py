"""Finds each instruction's nearest neighbour, and rejects repeats of instructions that are kept.

Distances are squared L2 between vectors of length 1: 0 for the same direction, 2 for unrelated ones, and 2 - 2 cos in
between. They are exact: dot products in float32, which say little about distances near zero, only find the pairs that
matter, and these are measured by subtraction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.errors import ModelError
from magpie.recipe import Dedup
from magpie.steps.base import REJECTED, live, spread

Vectors = np.ndarray[Any, np.dtype[np.float32]]
Distances = np.ndarray[Any, np.dtype[np.float64]]
Positions = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

REPEAT = "dedup: repeat"

_CANDIDATES = 4
_EQUAL = 1e-12
_TILE = 2048
_BLOCK_VALUES = 2**22


@dataclass(frozen=True, slots=True)
class DedupStep:
    """Adds what is known of each row's neighbours among the rows that are not rejected, and rejects repeats.

    `min_neighbor_distance` is the squared L2 distance to the nearest other row and `min_similar_id` that row (of rows
    with the very same vector, the one of lowest index); both are null for a row that is alone. `repeat_count` is how
    many other rows are nearer than the threshold. A row is a repeat when a row of lower index that is itself kept is
    nearer than the threshold: strictly nearer, so that a threshold of 0 rejects nothing.
    """

    part: Dedup

    name = "dedup"
    reads = ("embedding",)
    adds = pa.schema(
        [
            pa.field("min_neighbor_distance", pa.float32()),
            pa.field("min_similar_id", pa.string()),
            pa.field("repeat_count", pa.int32()),
            REJECTED,
        ]
    )
    version = 1

    @property
    def settings(self) -> dict[str, Any]:
        """The threshold."""
        return self.part.model_dump(mode="json")

    def run_all(self, rows: pa.Table) -> pa.Table:
        """The new columns for the whole run. Holds every live vector in float32, and never all pairs.

        Raises ModelError when a live row's vector is missing, zero or not finite.
        """
        at = live(rows)
        order = np.argsort(rows["index"].to_numpy()[at], kind="stable")
        vectors = unit_vectors(rows, at)[order]
        distance, nearest = nearest_neighbors(vectors)
        counts, repeat = find_repeats(vectors, distance, threshold=self.part.threshold)
        by_index = np.asarray(at, np.int64)[order]
        ids = rows["id"].take(pa.array(by_index[nearest])).to_pylist()
        columns: dict[str, Sequence[Any]] = {
            "min_neighbor_distance": distance.tolist() if len(at) > 1 else [None] * len(at),
            "min_similar_id": ids if len(at) > 1 else [None] * len(at),
            "repeat_count": counts.tolist(),
            "rejected": [REPEAT if is_repeat else None for is_repeat in repeat.tolist()],
        }
        return spread(rows, by_index.tolist(), columns, self.adds)


def unit_vectors(rows: pa.Table, at: Sequence[int]) -> Vectors:
    """The vectors of the rows at positions `at` (rising), made length 1. Shape (rows, dimensions), float32."""
    wanted = np.zeros(rows.num_rows, np.bool_)
    wanted[list(at)] = True
    vectors = np.empty((len(at), 0), np.float32)
    start = filled = 0
    for chunk in rows["embedding"].chunks:
        kept = chunk.filter(pa.array(wanted[start : start + len(chunk)]))
        start += len(chunk)
        if not len(kept):
            continue
        widths = pc.unique(pc.list_value_length(kept)).to_pylist()
        if not vectors.shape[1] and widths[0]:
            vectors = np.empty((len(at), widths[0]), np.float32)
        if kept.null_count or widths != [vectors.shape[1]] or not widths[0]:
            raise ModelError(
                "rows have no embedding, or one of another width; run the build again with one embedder"
            )
        part = kept.flatten().to_numpy(zero_copy_only=False).reshape(len(kept), -1).astype(np.float32)
        lengths = np.linalg.norm(part, axis=1, keepdims=True)
        sound = np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)
        if not sound.all():
            row = rows["id"][at[filled + int(np.argmin(sound))]].as_py()
            raise ModelError(
                f"the embedding of row {row} is zero or not finite; "
                "set the embedder's `dtype` to float32, or use another embedder"
            )
        vectors[filled : filled + len(kept)] = part / lengths
        filled += len(kept)
    return vectors


def nearest_neighbors(vectors: Vectors) -> tuple[Distances, Positions]:
    """The squared distance (float64) from each vector to its nearest other, and that one's position.

    FAISS names a few candidates by dot product, which orders unit vectors as distance does, and subtraction measures
    them. Where others might be as near as the candidates, all are searched again in float64. Of neighbours equally
    near, to within 1e-12, the first is named. A vector that is alone gets NaN, and itself.
    """
    import faiss

    count, width = vectors.shape
    distance, nearest = np.full(count, np.nan), np.arange(count)
    if count < 2:
        return distance, nearest
    unseen = np.full(count, np.inf)
    block = max(64, min(4096, _BLOCK_VALUES // width))
    for start in range(0, count, block):
        here = slice(start, start + block)
        queries = vectors[here]
        dots, found = faiss.knn(queries, vectors, min(count, _CANDIDATES), metric=faiss.METRIC_INNER_PRODUCT)
        found.sort(axis=1)
        measured = squared_distances(queries[:, None, :], vectors[found])
        measured[found == np.arange(start, start + len(queries))[:, None]] = np.inf
        best = measured.argmin(axis=1)[:, None]
        distance[here] = np.take_along_axis(measured, best, axis=1)[:, 0]
        nearest[here] = np.take_along_axis(found, best, axis=1)[:, 0]
        if count > _CANDIDATES:
            unseen[here] = 2 - 2 * dots[:, -1].astype(np.float64) - _slack(width)
    _join_twins(vectors, distance, nearest)
    _search_again(vectors, np.flatnonzero((unseen <= distance) & (distance > 0)), distance, nearest)
    return distance, nearest


def find_repeats(vectors: Vectors, distance: Distances, *, threshold: float) -> tuple[Positions, Mask]:
    """How many others each vector has within `threshold`, and whether it repeats a kept one of lower position.

    Only vectors whose nearest neighbour (at `distance`) is within reach are compared, tile by tile and in order: what
    is kept of all earlier tiles is settled before a tile is. So A~B~C keeps A, drops B, and keeps C unless C is near A.
    """
    counts, repeat = np.zeros(len(vectors), np.int64), np.zeros(len(vectors), np.bool_)
    touched = np.flatnonzero(distance < threshold + _slack(vectors.shape[1]))
    close = vectors[touched]
    of_count, dropped = counts[touched], repeat[touched]
    for start in range(0, len(close), _TILE):
        here = slice(start, start + _TILE)
        for before in range(0, start, _TILE):
            there = slice(before, before + _TILE)
            near = _near(close[here], close[there], threshold)
            of_count[here] += near.sum(axis=1, dtype=np.int64)
            of_count[there] += near.sum(axis=0, dtype=np.int64)
            dropped[here] |= (near & ~dropped[there]).any(axis=1)
        near = _near(close[here], close[here], threshold)
        np.fill_diagonal(near, False)
        of_count[here] += near.sum(axis=1, dtype=np.int64)
        _drop_in_order(near, dropped[here])
    counts[touched], repeat[touched] = of_count, dropped
    return counts, repeat


def squared_distances(a: Vectors, b: Vectors) -> Distances:
    """Squared L2 distances over the last axis, by subtraction: exact near zero, where dot products are not."""
    apart = np.subtract(a, b, dtype=np.float64)
    return np.asarray(np.einsum("...d,...d->...", apart, apart))


def _slack(width: int) -> float:
    """More than a squared distance from a float32 dot product can be off: twice its rounding bound, width x 2**-23."""
    return (width + 8) * 2.0**-22


def _near(a: Vectors, b: Vectors, threshold: float) -> Mask:
    """Which pairs are nearer than `threshold`: by dot product where that decides, by subtraction where it is close."""
    dots = a @ b.T
    slack = _slack(a.shape[1])
    near: Mask = dots > 1 - (threshold - slack) / 2
    unsure = np.flatnonzero((dots >= 1 - (threshold + slack) / 2) & ~near)
    step = max(1, _BLOCK_VALUES // a.shape[1])
    for start in range(0, len(unsure), step):
        row, column = np.divmod(unsure[start : start + step], near.shape[1])
        near[row, column] = squared_distances(a[row], b[column]) < threshold
    return near


def _drop_in_order(near: Mask, dropped: Mask) -> None:
    """Within one tile: each vector that is kept drops the later ones near it. Changes `dropped`."""
    for row in np.flatnonzero(near.any(axis=1)):
        if not dropped[row]:
            dropped[row + 1 :] |= near[row, row + 1 :]


def _join_twins(vectors: Vectors, distance: Distances, nearest: Positions) -> None:
    """Gives vectors that have twins distance 0 and the first twin, however many crowd the candidates.

    Changes `distance` and `nearest`.
    """
    twins: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(distance < _slack(vectors.shape[1])).tolist():
        firsts = twins.setdefault(vectors[row].tobytes(), [])
        if firsts:
            distance[row], nearest[row] = 0, firsts[0]
        if len(firsts) < 2:
            firsts.append(row)
    for firsts in twins.values():
        if len(firsts) == 2:
            distance[firsts[0]], nearest[firsts[0]] = 0, firsts[1]


def _search_again(vectors: Vectors, rows: Positions, distance: Distances, nearest: Positions) -> None:
    """Finds the nearest neighbours of some rows among all, in float64. Changes `distance` and `nearest`."""
    for start in range(0, len(rows), _TILE):
        some = rows[start : start + _TILE]
        queries = vectors[some].astype(np.float64)
        best = np.full(len(some), np.inf)
        for begin in range(0, len(vectors), _TILE):
            others = vectors[begin : begin + _TILE].astype(np.float64)
            apart = (
                np.square(queries).sum(axis=1)[:, None]
                + np.square(others).sum(axis=1)
                - 2 * queries @ others.T
            )
            inside = np.flatnonzero((some >= begin) & (some < begin + len(others)))
            apart[inside, some[inside] - begin] = np.inf
            least = apart.min(axis=1)
            first = (apart <= least[:, None] + _EQUAL).argmax(axis=1)
            nearer = least < best - _EQUAL
            best[nearer] = least[nearer]
            nearest[some[nearer]] = begin + first[nearer]
        distance[some] = squared_distances(vectors[some], vectors[nearest[some]])
