"""What a filter costs on millions of rows: seconds, and the peak memory of a process that does nothing else.

The rows are made: tag and score columns drawn by seed, ids, and instructions and responses of real lengths, as Parquet
in files of 250,000 rows. The filter has six rules, quotas over two columns and a top. A process of its own reads the
files, decides every row, and ends; another also writes the kept rows with all their columns. Neither reads a response
before it is known to be kept, since no rule asks for one. The time of making the files is not counted, nor that of
starting Python; that of loading every library is.
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
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

_FILE = 250_000
_CATEGORIES = (
    "Information seeking", "Reasoning", "Planning", "Editing", "Coding & Debugging", "Math", "Role playing",
    "Data analysis", "Creative writing", "Advice seeking", "Brainstorming", "Others",
)  # fmt: skip
_DIFFICULTIES = ("very easy", "easy", "medium", "hard", "very hard")
_QUALITIES = ("very poor", "poor", "average", "good", "excellent")
_FILTER = {
    "rules": [
        {"name": "quality", "where": "input_quality IN ('average', 'good', 'excellent')"},
        {"name": "difficulty", "where": "difficulty <> 'very easy'"},
        {"name": "reward", "where": "instruct_reward >= -10"},
        {"name": "reward difference", "where": "reward_difference > 0"},
        {"name": "repeats", "where": "repeat_count = 0 OR min_neighbor_distance > 0.05"},
        {"name": "language", "where": "lower(language) = 'en'"},
    ],
    "quotas": {"by": "task_category || ', ' || difficulty", "each": 9_000},
    "top": {"by": "response_length", "n": 300_000},
}


def main() -> None:
    """Measure, show, and end with one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filter", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="only decide; write no row")
    parser.add_argument("--rows", type=int, default=3_000_000, help="rows to filter")
    parser.add_argument("--apply", nargs=2, metavar=("FOLDER", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.apply:
        print(json.dumps(_apply(*options.apply)))
        return
    figures: dict[str, Any] = {"benchmark": "filter", "rows": options.rows, "rules": len(_FILTER["rules"])}
    with tempfile.TemporaryDirectory(prefix="magpie-filter-") as place:
        folder = Path(place) / "rows"
        folder.mkdir()
        texts = _texts(min(_FILE, options.rows))
        for number, first in enumerate(range(0, options.rows, _FILE)):
            rows = _made(number, texts.slice(0, options.rows - first))
            pq.write_table(rows, folder / f"train-{number:05d}-of-x.parquet", compression="zstd")
        del texts, rows
        figures |= _measured(folder, "")
        if not options.quick:
            whole = _measured(folder, str(Path(place) / "kept"))
            figures |= {f"{name}_with_writing": whole[name] for name in ("seconds", "peak_mb")}
    _show(figures)
    print(json.dumps(figures))


def _measured(folder: Path, out: str) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "benchmarks.filter", "--apply", str(folder), out]
    # Whatever folder this was started in: only this checkout is looked in.
    around = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=around)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _apply(folder: str, out: str) -> dict[str, Any]:
    """Filter the files of a folder in this process; write what is kept when `out` is named."""
    began = time.perf_counter()
    from magpie.data.published import Published
    from magpie.data.select import refilter
    from magpie.recipe import Filter

    found = refilter(Published(folder), Filter.model_validate(_FILTER), Path(out) if out else None)
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "peak_mb": round(_peak() / 1e6),
        "kept": found.kept,
        "lost": {line.name: line.lost for line in found.lines},
    }


def _peak() -> int:
    """The most memory this process has held, in bytes. What `getrusage` says begins with the parent's peak on Linux."""
    status = Path("/proc/self/status")
    if status.is_file():
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _texts(rows: int) -> pa.Table:
    """Instructions, and responses with their lengths; every file has the same."""
    length = np.minimum(np.random.default_rng(0).lognormal(6.5, 0.6, rows), 8000).astype(np.int32)
    text = (
        "The quick answer to a plain question is often the one that was asked for in the first place. " * 90
    )
    return pa.table(
        {
            "instruction": [f"Question {at}: {text[: at % 300]}?" for at in range(rows)],
            "response": [text[at % 97 :][:size] for at, size in enumerate(length.tolist())],
            "response_length": length,
        }
    )


def _made(number: int, texts: pa.Table) -> pa.Table:
    """One file's rows: what the steps of a run would have added to the texts, drawn by seed."""
    rng, rows = np.random.default_rng(number), texts.num_rows
    reward = rng.normal(-2, 5, rows)
    distance = np.abs(rng.normal(0.4, 0.15, rows))
    columns = {
        "uuid": [f"{number:08x}-0000-4000-8000-{at:012x}" for at in range(rows)],
        "task_category": _drawn(rng, rows, _CATEGORIES),
        "difficulty": _drawn(rng, rows, _DIFFICULTIES),
        "input_quality": _drawn(rng, rows, _QUALITIES),
        "language": _drawn(rng, rows, ("EN", "EN", "EN", "EN", "DE", "ZH")),
        "instruct_reward": reward,
        "reward_difference": reward - rng.normal(-4, 3, rows),
        "min_neighbor_distance": distance,
        "repeat_count": (distance < 0.05).astype(np.int64),
    }
    return pa.table(columns | {name: texts[name] for name in texts.column_names})


def _drawn(rng: np.random.Generator, rows: int, values: tuple[str, ...]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(rng.integers(0, len(values), rows, np.int32), list(values)).cast(
        pa.string()
    )


def _show(figures: dict[str, Any]) -> None:
    table = Table(title=f"filter: {figures['rows']:,} rows", title_justify="left", show_header=False)
    for name, value in figures.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int | float) else str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
