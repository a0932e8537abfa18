"""A rule that works for long can be stopped: the command ends soon, with one line."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from builds import small_recipe
from command import refusal, start

from magpie.build import build

LONG = "levenshtein(repeat(instruction, 400), repeat(reverse(instruction), 400)) > 0"
WAITS = 20
"""Seconds: far more than stopping takes, and less than the limit on a rule, which would end it as well."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    build(small_recipe(), folder)
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_long_rule_is_stopped(tmp_path: Path, run: Path, number: signal.Signals) -> None:
    rules = tmp_path / "long.yaml"
    rules.write_text(yaml.safe_dump({"rules": [{"name": "long", "where": LONG}]}))
    process = start("filter", run, rules, "--explain")
    _wait_until_it_works(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=WAITS)
    line = refusal(subprocess.CompletedProcess(process.args, process.returncode, out, err), code=130)
    assert "stopped" in line


def _wait_until_it_works(process: subprocess.Popen[str]) -> None:
    """Wait until the thread that works out the rule is there: it alone has this name."""
    tasks = Path(f"/proc/{process.pid}/task")
    if not tasks.exists():
        process.kill()
        pytest.skip("threads are looked for in /proc")
    while process.poll() is None:
        if _seconds_of_work(process.pid) > 3:  # starting takes less
            return
        time.sleep(0.1)
    raise AssertionError(f"the rule was over too soon: {process.communicate()}")


def _seconds_of_work(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
