"""The rows of a run or a dataset as Embedding Atlas takes them: texts and tags, places on a map, and neighbours.

A run's own vectors are read, so that nothing is embedded a second time. Those of a dataset are kept in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.near import embedder_named
from magpie.data.vectors import vectors_of
from magpie.errors import RunError
from magpie.figures.coverage_map import coverage_map
from magpie.figures.vectors import Sampled
from magpie.neighbors.vectors import Floats, ProgressCallback, UnitVectors, no_progress
from magpie.runs.opened import OpenDataset
from magpie.runs.run import Run
from magpie.steps.base import REJECTED, is_inner

ROWS = 20_000
"""The most rows that are shown, drawn by a seed: each is compared with each other one."""
NEIGHBORS = 15
STATE = "kept or why not"
X, Y, NEAREST = "map x", "map y", "nearest rows"

_VECTOR = "embedding"
_BLOCK = 1_000


@dataclass(frozen=True, slots=True)
class AtlasRows:
    """The rows, of which there are `of` in all; `method` says how the map was made."""

    name: str
    table: pa.Table
    of: int
    method: str


def rows_of_run(
    run: Run, *, most: int = ROWS, seed: int = 0, on_progress: ProgressCallback = no_progress
) -> AtlasRows:
    """The rows of a run that have a vector, kept or not. Raises RunError where it has none, DamagedShardError."""
    if run.step_adding(_VECTOR) is None:
        raise RunError(f"{run.storage.location} has no vectors; give the dataset in it, which gets some")
    names = [field.name for field in run.schema if _is_shown(field)]
    on_progress("reading", 0, 1)
    rows = run.table([*names, _VECTOR])
    rows = rows.filter(pc.is_valid(rows[_VECTOR]))
    chosen = rows.take(pa.array(_chosen(rows.num_rows, most, seed)))
    vectors = chosen[_VECTOR].combine_chunks()
    state = pc.fill_null(chosen[REJECTED.name], "kept")
    table = chosen.select(["id", *(name for name in names if name != "id")]).append_column(STATE, state)
    flat = np.asarray(vectors.flatten()).reshape(chosen.num_rows, -1)
    return _placed(run.recipe.name, table, flat, rows.num_rows, on_progress)


def rows_of_dataset(
    dataset: OpenDataset,
    *,
    most: int = ROWS,
    seed: int = 0,
    embedder: str = "demo-embedder",
    on_progress: ProgressCallback = no_progress,
) -> AtlasRows:
    """The rows of a dataset that have an instruction. Raises RunError, ModelError."""
    flat = [field.name for field in (*dataset.schema, *dataset.derived) if _is_shown(field)]
    wanted = list(dict.fromkeys([*flat, "instruction", "response"]))
    parts = [
        table.select([name for name in wanted if name in table.column_names])
        for table in dataset.tables([name for name in wanted if name not in dataset.schema.names])
    ]
    rows = pa.concat_tables(parts, promote_options="permissive")
    if not _is_text(rows.schema.field("instruction").type):
        raise RunError(f"{dataset.name} has no instruction that is a text; there is nothing to show")
    texts = pc.fill_null(rows["instruction"], "")
    rows = rows.filter(pc.greater(pc.utf8_length(texts), 0))
    chosen = rows.take(pa.array(_chosen(rows.num_rows, most, seed)))
    vectors = vectors_of(chosen["instruction"].to_pylist(), embedder_named(embedder), on_progress)
    return _placed(dataset.name, chosen, vectors, rows.num_rows, on_progress)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))  # polars writes large ones


def _is_shown(field: pa.Field) -> bool:
    kind = field.type
    tests = (_is_text, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    flat = any(test(kind) for test in tests)
    return flat and not is_inner(field) and not field.name.endswith("_seed") and field.name != REJECTED.name


def _chosen(rows: int, most: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def _placed(
    name: str, table: pa.Table, vectors: np.ndarray[Any, Any], of: int, on_progress: ProgressCallback
) -> AtlasRows:
    if not table.num_rows:
        raise RunError(f"{name} has no row with a vector; there is nothing to show")
    units = UnitVectors.of(vectors)[slice(None)]
    nearest = _nearest(units, on_progress)
    on_progress("drawing the map", 0, 1)
    places, method = _map(units)
    for column, values in ((X, places[:, 0]), (Y, places[:, 1])):
        table = table.append_column(column, pa.array(np.asarray(values, np.float64)))
    return AtlasRows(name, table.append_column(NEAREST, nearest), of, method)


def _nearest(units: Floats, on_progress: ProgressCallback) -> pa.Array:
    """For each row its nearest others by position, with squared distances, as Embedding Atlas takes them."""
    count = min(NEIGHBORS, len(units) - 1)
    found: list[dict[str, Sequence[Any]]] = []
    for start in range(0, len(units), _BLOCK):
        on_progress("finding neighbours", start, len(units))
        products = units[start : start + _BLOCK] @ units.T
        here = np.arange(len(products))
        products[here, start + here] = -np.inf
        at = np.argpartition(-products, min(count, len(units) - 1), axis=1)[:, :count]
        near = np.take_along_axis(products, at, axis=1)
        order = np.argsort(-near, axis=1, kind="stable")
        at, near = np.take_along_axis(at, order, axis=1), np.take_along_axis(near, order, axis=1)
        distances = np.maximum(2 - 2 * near, 0)
        found += [
            {"ids": ids, "distances": far} for ids, far in zip(at.tolist(), distances.tolist(), strict=True)
        ]
    kind = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float64()))])
    return pa.array(found, kind)


def _map(units: Floats) -> tuple[np.ndarray[Any, Any], str]:
    """A place for each row, as on the map of the report, and how it was found."""
    rows = len(units)
    drawn = coverage_map(Sampled(np.arange(rows), ("",) * rows, units, rows, "stored"))
    return (
        (np.zeros((rows, 2)), "left out, as there are too few rows")
        if drawn is None
        else (drawn.places, drawn.method)
    )
