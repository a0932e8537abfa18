"""A rule that works for long can be stopped: the command ends soon, with one line."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from builds import small_recipe
from command import ENVIRONMENT, refusal

from magpie.build import build

LONG = "levenshtein(repeat(instruction, 400), repeat(reverse(instruction), 400)) > 0"
WAITS = 20
"""Seconds: far more than stopping takes, and less than the limit on a rule, which would end it as well."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    build(small_recipe(), folder)
    return folder


# The command, which makes a file when DuckDB begins to work out a rule over rows.
TOLD = """
import sys
from pathlib import Path
import magpie.cli
import magpie.steps.filter.sql as sql

begun, whole = Path(sys.argv.pop(1)), sql.within_limits

def within_limits(cursor, query, *, rows):
    def told():
        if rows:
            begun.touch()
        return query()
    return whole(cursor, told, rows=rows)

sql.within_limits = within_limits
magpie.cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_long_rule_is_stopped(tmp_path: Path, run: Path, number: signal.Signals) -> None:
    rules, begun = tmp_path / "long.yaml", tmp_path / "begun"
    rules.write_text(yaml.safe_dump({"rules": [{"name": "long", "where": LONG}]}))
    command = [sys.executable, "-c", TOLD, begun, "filter", run, rules, "--explain"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    while not begun.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=WAITS)
    line = refusal(subprocess.CompletedProcess(process.args, process.returncode, out, err), code=130)
    assert begun.exists() and "stopped" in line
