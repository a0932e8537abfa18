"""`python -m tests.faults`, or `make faults`: everything that may go wrong with a build, at 230 seeded points.

A table by kind, and one JSON object as the last line. `--points` takes fewer of each kind, `--only` kinds whose name
holds a word, `--seed` other points.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]


def main() -> None:
    """Run the points, print the table; exit code 1 when anything was lost."""
    arguments = _arguments()
    if os.geteuid() == 0 and "FAULTS_MAY_MOUNT" not in os.environ and shutil.which("unshare"):
        # Small disks are mounted where nobody else sees them, and go with this process.
        command = ["unshare", "--mount", sys.executable, "-m", "tests.faults", *sys.argv[1:]]
        os.execvpe("unshare", command, os.environ | {"FAULTS_MAY_MOUNT": "1"})
    from clusters import ENGINE_KINDS, RAY_KINDS
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from table import KINDS, Row, in_all, run_point, setting

    console = Console(stderr=True)
    may_mount = "FAULTS_MAY_MOUNT" in os.environ
    kinds = {
        name: (max(1, round(points * arguments.points / 230)), point)
        for name, (points, point) in (KINDS | RAY_KINDS | ENGINE_KINDS).items()
        if arguments.only in name and (may_mount or name != "a full disk")
    }
    rows = [Row(name) for name in kinds]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with (
        tempfile.TemporaryDirectory(prefix="magpie-faults-") as name,
        Progress(*columns, console=console) as bar,
    ):
        folder = Path(name)
        task = bar.add_task("faults", total=sum(points for points, _ in kinds.values()))
        with setting(folder, kinds, real_store=True) as (given, store):
            for row, (points, point) in zip(rows, kinds.values(), strict=True):
                bar.update(task, description=row.kind)
                for number in range(points):
                    run_point(row, point, arguments.seed + number, given, folder)
                    bar.advance(task)
                print(_line(row), flush=True)
    for row in rows:
        for failure in row.failures:
            print(f"  {failure}")
    whole = in_all(rows) | {"store": store}
    print(json.dumps(whole))
    bad = (
        whole["failures"] or whole["lost"] or whole["doubled"] or whole["corrupt"] or whole["processes_left"]
    )
    sys.exit(1 if bad else 0)


def _line(row: object) -> str:
    facts = vars(row)
    return (
        f"{facts['kind']:32} {facts['points']:3} points, {facts['hit']:3} hit: {facts['lost']} lost, "
        f"{facts['doubled']} doubled, {facts['corrupt']} corrupt, {facts['repeated']:.2f} shards repeated at most, "
        f"{facts['left']} processes left, {len(facts['failures'])} failures, {facts['seconds']:.0f} s"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--points", type=int, default=230, help="how many in all, about; one of each kind at least"
    )
    parser.add_argument("--only", default="", metavar="WORD", help="only kinds with this word in their name")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
