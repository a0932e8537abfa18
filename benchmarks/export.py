"""What an export costs: rows a second, and the peak memory of a process that does nothing else.

The rows are made: conversations of real lengths with the columns of a run, in a dataset of magpie's own. Each export
is done by a process of its own: as `messages` in JSON lines, as Parquet, and in an order that a seed decides. The time
of making the rows and of starting Python is not counted. A million rows without `--quick`, which has 100,000.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks.filter import _peak

_BATCH = 10_000
_KINDS = {
    "messages": ("x.jsonl", {}),
    "parquet": ("x.parquet", {}),
    "shuffled": ("y.parquet", {"shuffle": 7}),
}


def main() -> None:
    """Measure, show, and end with one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="100,000 rows")
    parser.add_argument("--rows", type=int, help="rows to export")
    parser.add_argument("--apply", nargs=2, metavar=("FOLDER", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.apply:
        print(json.dumps(_apply(Path(options.apply[0]), options.apply[1])))
        return
    rows = options.rows or (100_000 if options.quick else 1_000_000)
    figures: dict[str, Any] = {"benchmark": "export", "rows": rows}
    with tempfile.TemporaryDirectory(prefix="magpie-export-") as place:
        _make(Path(place) / "set", rows)
        for kind in _KINDS:
            command = [sys.executable, "-P", "-m", "benchmarks.export", "--apply", place, kind]
            # Whatever folder this was started in: only this checkout is looked in.
            around = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=around)
            figures |= {
                f"{kind}_{name}": value for name, value in json.loads(done.stdout.splitlines()[-1]).items()
            }
    figures["rows_per_second"] = figures["messages_rows_per_second"]
    figures["peak_mb"] = max(figures[f"{kind}_peak_mb"] for kind in _KINDS)
    table = Table(title=f"export: {rows:,} rows", title_justify="left")
    for heading in ("", "seconds", "rows/s", "peak MB"):
        table.add_column(heading, justify="right" if heading else "left")
    for kind in _KINDS:
        cells = (figures[f"{kind}_{name}"] for name in ("seconds", "rows_per_second", "peak_mb"))
        table.add_row(kind, *(f"{value:,}" for value in cells))
    Console().print(table)
    print(json.dumps(figures))


def _apply(place: Path, kind: str) -> dict[str, Any]:
    """Export the dataset in this process."""
    import magpie

    name, options = _KINDS[kind]
    began = time.perf_counter()
    result = magpie.export(place / "set", "messages", place / name, **options)
    seconds = time.perf_counter() - began
    return {
        "seconds": round(seconds, 2),
        "rows_per_second": round(result.rows / seconds),
        "peak_mb": round(_peak() / 1e6),
    }


def _make(folder: Path, rows: int) -> None:
    """A dataset of so many rows: texts with the lengths of the published sets, tags, and scores."""
    from magpie.data.dataset import DatasetFiles
    from magpie.storage import open_storage

    folder.mkdir()
    files = DatasetFiles(open_storage(folder))
    files.write(_tables(rows), rows, name="made", made_from="benchmark")


def _tables(rows: int) -> Iterator[pa.Table]:
    text = "The quick answer to a plain question is often the one that was asked for first. " * 100
    for first in range(0, rows, _BATCH):
        rng, count = np.random.default_rng(first), min(_BATCH, rows - first)
        asked, said = (np.minimum(rng.lognormal(mean, 0.6, count), 7000).astype(int) for mean in (4.5, 6.8))
        questions = [f"Question {first + at}: {text[at % 97 :][:size]}" for at, size in enumerate(asked)]
        answers = [text[at % 89 :][:size] for at, size in enumerate(said)]
        talks = [
            [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            for question, answer in zip(questions, answers, strict=True)
        ]
        yield pa.table(
            {
                "id": [f"made-{first + at:07d}" for at in range(count)],
                "messages": talks,
                "temperature": pa.array(rng.choice([1.0, 1.1], count), pa.float32()),
                "instruction": questions,
                "response": answers,
                "response_length": said,
                "difficulty": rng.choice(["easy", "medium", "hard"], count).tolist(),
                "instruct_reward": rng.normal(-2, 5, count).astype(np.float32),
                "generator": ["org/model"] * count,
            }
        )


if __name__ == "__main__":
    main()
