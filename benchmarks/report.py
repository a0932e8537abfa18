"""How long the report of a run takes, and how large it is.

python -m benchmarks.report --quick    # 10,000 rows
python -m benchmarks.report            # 100,000 rows
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from magpie.build import build
from magpie.figures.report_figures import report_figures
from magpie.recipe.loading import load_recipe
from magpie.report.page.writing import write_report


def main() -> None:
    """Build with the scripted engine, then write the report, and say what took how long."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="10,000 rows")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--run", type=Path, help="a run that is there already")
    options = parser.parse_args()
    rows = 10_000 if options.quick else options.rows
    with tempfile.TemporaryDirectory() as folder:
        place = options.run or Path(folder) / "run"
        if options.run is None:
            recipe = load_recipe("demo", rows=rows, engine="scripted", overrides={"shard_rows": 1000})
            build(recipe, place, report=False)
        began, spent, parts = time.perf_counter(), _processor(), list[tuple[str, float]]()
        figures = report_figures(
            place, on_progress=lambda what, *_: parts.append((what, time.perf_counter() - began))
        )
        parts.append(("writing the page and the figures", time.perf_counter() - began))
        written = write_report(figures, Path(folder) / "report.html")
        seconds, megabytes = time.perf_counter() - began, written.stat().st_size / 1e6
        _show(parts, seconds)
        outcome = {
            "rows": figures.rows.table.num_rows,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(_processor() - spent, 2),
            "megabytes": round(megabytes, 2),
        }
    print(json.dumps(outcome))


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _show(parts: list[tuple[str, float]], seconds: float) -> None:
    table = Table(title="the report of a run, part by part", title_justify="left")
    table.add_column("part")
    table.add_column("seconds", justify="right")
    ends = [*(began for _, began in parts[1:]), seconds]
    for (what, began), end in zip(parts, ends, strict=True):
        table.add_row(what, f"{end - began:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
