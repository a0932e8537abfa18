"""What it costs to find repeats: all of them, or nearly all, against the published way.

The published way is a flat L2 search of FAISS for the 500 nearest of every vector. `exact` finds all pairs below the
threshold and `approximate` those that a search of cells comes to; both are timed from the stored float16 vectors to the
list of pairs, everything they prepare included. Ratios are of times in one process, one after the other. Where a flat
search of everything would take minutes, a sample of the queries is timed and scaled.

Synthetic vectors are directions drawn evenly, 10 % of them moved next to others. Real ones are embeddings by the
embedded embedder of sentences from the documentation of the Python packages that are installed here; they are kept in
a folder for temporary files. More rows than sentences are made as sums of two embeddings and a little noise, with the
same 10 %. Recall on the sentences themselves is reported beside it.

Without --quick, a million rows are read from shards, deduplicated by the step of the pipeline, and its columns written,
in a process of its own whose peak memory is taken.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.sentences import sentences
from magpie.engines.embedder import encode_all
from magpie.neighbors.cells import Cells, choose_probes, search_cells
from magpie.neighbors.exact import near_pairs
from magpie.neighbors.survey import PAIR_RECALL, survey
from magpie.neighbors.vectors import UnitVectors
from magpie.recipe import Dedup, Model
from magpie.steps.dedup import DedupStep

WIDTH = 384
THRESHOLD = 0.05
_K = 500
_QUERIES = 2000
_SHARD = 10_000

Stored = np.ndarray[Any, np.dtype[np.float16]]
Pairs = np.ndarray[Any, np.dtype[np.int64]]


def main() -> None:
    """Measure, show, and end with one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dedup", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="leave out the million rows")
    parser.add_argument("--rows", type=int, default=50_000, help="rows of the exact search")
    parser.add_argument("--many", type=int, default=200_000, help="rows of the approximate search")
    parser.add_argument("--most", type=int, default=1_000_000, help="rows deduplicated end to end")
    parser.add_argument(
        "--texts", type=int, default=20_000, help="sentences embedded; 0 leaves out what is real"
    )
    parser.add_argument("--end-to-end", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.end_to_end:
        print(json.dumps(_end_to_end(Path(options.end_to_end))))
        return
    real = _embedded(options.texts) if options.texts else None
    lines: list[tuple[str, int, dict[str, Any]]] = []
    small = _exact(_planted(_directions(options.rows)))
    lines.append(("exact, synthetic", options.rows, small))
    large = _approximate(_planted(_directions(options.many)))
    lines.append(("approximate, synthetic", options.many, large))
    figures: dict[str, Any] = {
        "benchmark": "dedup",
        "rows": options.rows,
        "many": options.many,
        **small,
        **large,
    }
    if real is not None:
        for name, stored in (("sums", _planted(_sums(real, options.many))), ("sentences", real)):
            found = _approximate(stored)
            lines.append((f"approximate, {name}", len(stored), found))
            figures |= {f"{key}_{name}": value for key, value in found.items()}
    if not options.quick:
        for name, make in _at_once(real, options.most):
            found = _million(make)
            lines.append((f"end to end, {name}", options.most, found))
            figures |= {f"{key}_{name}": value for key, value in found.items()}
    _show(lines)
    print(json.dumps(figures))


def _exact(stored: Stored) -> dict[str, Any]:
    """The exact search against the flat one, over every row."""
    _warm_up(stored)
    flat_seconds, flat = _timed(lambda: _flat_pairs(stored, len(stored)))
    seconds, found = _timed(lambda: _listed(near_pairs(UnitVectors.of(stored), THRESHOLD)))
    whole_seconds, _ = _timed(lambda: survey(UnitVectors.of(stored.copy()), THRESHOLD))
    return {
        "exact_ratio": round(flat_seconds / seconds, 2),
        "exact_ratio_with_nearest": round(flat_seconds / whole_seconds, 2),
        "same_pairs": bool(np.array_equal(found, flat)),
        "pairs": len(found),
        "exact_seconds": round(seconds, 2),
        "exact_seconds_with_nearest": round(whole_seconds, 2),
        "flat_seconds": round(flat_seconds, 2),
    }


def _approximate(stored: Stored) -> dict[str, Any]:
    """The approximate search against a flat one, timed on a sample of queries; recall against the exact search."""
    _warm_up(stored)
    sample = min(_QUERIES, len(stored))
    flat_seconds, _ = _timed(lambda: _flat_pairs(stored, sample))
    flat_seconds *= len(stored) / sample
    seconds, found = _timed(lambda: _cell_pairs(stored))
    exact_seconds, true = _timed(lambda: _listed(near_pairs(UnitVectors.of(stored), THRESHOLD)))
    return {
        "approximate_ratio": round(flat_seconds / seconds, 2),
        "recall": round(len(np.intersect1d(found, true)) / max(1, len(true)), 5),
        "approximate_seconds": round(seconds, 2),
        "exact_seconds_for_many": round(exact_seconds, 2),
        "flat_seconds_scaled": round(flat_seconds, 1),
        "pairs_in_many": len(true),
    }


def _cell_pairs(stored: Stored) -> Pairs:
    units = UnitVectors.of(stored)
    cells = Cells.of(units)
    recall = choose_probes(units, cells, THRESHOLD, pairs=PAIR_RECALL, nearest=None)
    return _listed(search_cells(units, cells, recall.probes, threshold=THRESHOLD))


def _flat_pairs(stored: Stored, queries: int) -> Pairs:
    """Near pairs among the 500 nearest of the first `queries` vectors; those at the threshold measured again."""
    import faiss

    vectors = UnitVectors.of(stored)[:]
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(vectors)
    distances, found = index.search(vectors[:queries], min(_K, len(vectors)))
    i, at = np.nonzero(distances < THRESHOLD + 1e-4)
    j = found[i, at]
    apart = np.square(vectors[i].astype(np.float64) - vectors[j]).sum(axis=1)
    once = (i < j) & (apart < THRESHOLD)
    return np.unique(i[once] * 2**32 + j[once])


def _listed(pairs: Any) -> Pairs:
    """Pairs as sorted numbers, one for each."""
    found = [i * 2**32 + j for i, j, _ in pairs]
    return np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    made = work()
    return time.perf_counter() - began, made


def _warm_up(stored: Stored) -> None:
    """Libraries are imported and threads started before anything is timed."""
    _flat_pairs(stored[:3000], 100)
    _cell_pairs(stored[:9000])


# What is searched


def _directions(count: int) -> Stored:
    """Unit vectors drawn evenly from all directions."""
    made = np.empty((count, WIDTH), np.float16)
    rng = np.random.default_rng(1)
    for start in range(0, count, _SHARD):
        some = rng.standard_normal((min(_SHARD, count - start), WIDTH), np.float32)
        made[start : start + len(some)] = some / np.linalg.norm(some, axis=1, keepdims=True)
    return made


def _sums(real: Stored, count: int) -> Stored:
    """Unit vectors that lie as embeddings do: each the sum of two of them, and a little noise."""
    made = np.empty((count, real.shape[1]), np.float16)
    rng = np.random.default_rng(2)
    for start in range(0, count, _SHARD):
        size = min(_SHARD, count - start)
        one, other = (real[rng.integers(0, len(real), size)].astype(np.float32) for _ in range(2))
        some = one + other * rng.uniform(0.3, 1, (size, 1)).astype(np.float32)
        some += 0.01 * rng.standard_normal(some.shape, np.float32)
        made[start : start + size] = some / np.linalg.norm(some, axis=1, keepdims=True)
    return made


def _planted(stored: Stored) -> Stored:
    """The same vectors, a tenth of them moved to squared distances of 0 to 0.08 from others. Changes `stored`."""
    rng = np.random.default_rng(3)
    moved = rng.choice(len(stored), len(stored) // 10, replace=False)
    for start in range(0, len(moved), _SHARD):
        here = moved[start : start + _SHARD]
        source = stored[rng.integers(0, len(stored), len(here))].astype(np.float32)
        away = rng.standard_normal(source.shape, np.float32)
        away *= np.sqrt(rng.uniform(0, 0.08, (len(here), 1))) / np.linalg.norm(away, axis=1, keepdims=True)
        some = source + away
        stored[here] = some / np.linalg.norm(some, axis=1, keepdims=True)
    return stored


def _embedded(count: int) -> Stored:
    """Embeddings of sentences, from an earlier run where there was one."""
    folder = Path(tempfile.gettempdir()) / "magpie-benchmark-dedup"
    path = folder / f"sentences-{count}.npy"
    if path.is_file():
        return np.asarray(np.load(path))
    folder.mkdir(exist_ok=True)
    texts = sentences(count)
    print(f"embedding {len(texts):,} sentences, once; a minute for some 10,000 of them", flush=True)
    stored: Stored = encode_all(Model(model="demo-embedder"), texts).astype(np.float16)
    np.save(path, stored)
    return stored


# A million rows, end to end


def _at_once(real: Stored | None, rows: int) -> Iterator[tuple[str, Callable[[], Stored]]]:
    yield "directions", lambda: _planted(_directions(rows))
    if real is not None:
        yield "sums_end_to_end", lambda: _planted(_sums(real, rows))


def _million(make: Callable[[], Stored]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="magpie-dedup-") as folder:
        stored = make()
        for number, start in enumerate(range(0, len(stored), _SHARD)):
            pq.write_table(_shard(stored, start), Path(folder) / f"{number:05d}.parquet", compression="zstd")
        del stored
        command = [sys.executable, "-P", "-m", "benchmarks.dedup", "--end-to-end", folder]
        # Whatever folder this was started in: only this checkout is looked in.
        around = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=around)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _shard(stored: Stored, start: int) -> pa.Table:
    some = stored[start : start + _SHARD]
    index = np.arange(start, start + len(some))
    offsets = pa.array(np.arange(len(some) + 1, dtype=np.int32) * some.shape[1])
    return pa.table(
        {
            "id": [f"dedup-00000000-{at:08d}" for at in index.tolist()],
            "index": index,
            "rejected": pa.nulls(len(some), pa.string()),
            "embedding": pa.ListArray.from_arrays(offsets, pa.array(some.ravel())),
        }
    )


def _end_to_end(folder: Path) -> dict[str, Any]:
    """Read shards, deduplicate, write: the seconds, and the peak memory of this process."""
    began = time.perf_counter()
    paths = sorted(folder.glob("*.parquet"))
    given = [pa.concat_tables(pq.read_table(path, memory_map=False) for path in paths)]
    count = given[0].num_rows
    values = count * len(given[0]["embedding"][0])
    step = DedupStep.for_rows(Dedup(threshold=THRESHOLD), count)
    said = [time.perf_counter()]

    def watch(what: str, done: int, total: int) -> None:
        if time.perf_counter() - said[0] > 10:
            said[0] = time.perf_counter()
            print(f"{said[0] - began:6.0f} s  {what}, {done / total:.0%}", file=sys.stderr, flush=True)

    result = step.comparing(()).run_all(given.pop(), watch)
    pq.write_table(result, folder / "result.parquet", compression="zstd")
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    note = json.loads((result.schema.metadata or {}).get(b"magpie.note", b"{}"))
    return {
        "seconds": round(seconds, 1),
        "peak_mb": round(peak / 1e6),
        "memory_ratio": round(peak / (4 * values), 3),
        "rejected": result.num_rows - result["rejected"].null_count,
        "nearest_recall": note.get("nearest_recall"),
        "pairs_by": step.pairs,
    }


def _show(lines: list[tuple[str, int, dict[str, Any]]]) -> None:
    table = Table(title="dedup: finding repeats", title_justify="left")
    for heading in ("search", "rows", "found"):
        table.add_column(heading, justify="right" if heading == "rows" else "left")
    for name, rows, found in lines:
        table.add_row(name, f"{rows:,}", ", ".join(f"{key} {value}" for key, value in found.items()))
    Console().print(table)


if __name__ == "__main__":
    main()
