"""A whole build of many rows on an engine that costs nothing: rows a second, memory, and what starting again takes.

The demo recipe, every step but language detection (whose library is counted by `overhead`), is built by the command,
in a process of its own, on the scripted engine. Then the same command is run again, which has to look at every shard
and make none, and then `magpie verify`, which reads every byte. Seconds are on the clock and hold the start of Python.

The peak is that of the build's process and all that it started: proportional set sizes, added up twice a second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

_DEMO_WITHOUT_MODELS = (
    "--engine", "scripted",
    "--set", "models.generator=scripted",
    "--set", "models.embedder=scripted",
    "--set", "language=null",
    "--set", "shard_rows=1000",
)  # fmt: skip


def main() -> None:
    """Measure, show, and end with one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="50,000 rows instead of 1,000,000")
    parser.add_argument("--rows", type=int, help="instructions asked for")
    parser.add_argument("--replicas", type=int, help="build with so many workers on Ray, not in one process")
    options = parser.parse_args()
    rows = options.rows or (50_000 if options.quick else 1_000_000)
    workers = ("--executor", "local")
    if options.replicas:
        workers = ("--executor", "ray", "--replicas", str(options.replicas))
    with tempfile.TemporaryDirectory(prefix="magpie-memory-") as folder:
        run = str(Path(folder) / "run")
        build = ("build", "demo", "--out", run, "--rows", str(rows), *_DEMO_WITHOUT_MODELS, *workers)
        seconds, peak = _measured(*build)
        resume_seconds, resume_peak = _measured(*build)
        verify_seconds, verify_peak = _measured("verify", run)
    _show(
        [
            ("build", seconds, peak),
            ("build again", resume_seconds, resume_peak),
            ("verify", verify_seconds, verify_peak),
        ]
    )
    figures: dict[str, Any] = {
        "benchmark": "memory",
        "rows": rows,
        "rows_per_second": round(rows / seconds, 1),
        "peak_mb": round(peak / 1e6),
        "resume_seconds": round(resume_seconds, 2),
        "verify_seconds": round(verify_seconds, 2),
        "replicas": options.replicas or 0,
    }
    print(json.dumps(figures))


def _measured(*words: str) -> tuple[float, int]:
    """The seconds that a command takes, and the most memory that it and its children have, in bytes."""
    began, peak = time.perf_counter(), 0
    with subprocess.Popen([sys.executable, "-P", "-m", "magpie", *words], stdout=subprocess.DEVNULL) as child:
        while True:
            try:
                code = child.wait(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                peak = max(peak, _memory(child.pid))
    if code:
        raise SystemExit(f"magpie {words[0]} ended with code {code}")
    return time.perf_counter() - began, peak


def _memory(pid: int) -> int:
    """The memory of a process and of all that it started, pages that they share counted once."""
    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):  # it may have ended
                total += one.memory_full_info().pss
    return total


def _show(parts: list[tuple[str, float, int]]) -> None:
    table = Table(title="memory: a build of many rows", title_justify="left")
    for heading in ("command", "seconds", "peak, MB"):
        table.add_column(heading, justify="left" if heading == "command" else "right")
    for name, seconds, peak in parts:
        table.add_row(name, f"{seconds:.1f}", f"{peak / 1e6:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
