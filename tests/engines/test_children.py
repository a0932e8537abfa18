"""Children that are started find their modules where Python does, and never in the current folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from magpie.engines.vllm.settings import prepare_environment

_STARTS_THE_WATCHER = """
from magpie.engines.vllm import orphans
with orphans.watch():
    pass
watcher = orphans._watcher
watcher.stdin.close()
raise SystemExit(watcher.wait())
"""


def test_the_watcher_runs_nothing_from_the_current_folder(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    plant = f"open({str(seen)!r}, 'a').write('ran')\n"
    (tmp_path / "psutil.py").write_text(plant)
    (tmp_path / "magpie").mkdir()
    (tmp_path / "magpie" / "__init__.py").write_text(plant)
    command = [sys.executable, "-P", "-c", _STARTS_THE_WATCHER]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    assert not seen.exists()


def test_the_processes_of_vllm_are_started_safely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.delenv("PYTHONSAFEPATH")
    prepare_environment()
    assert os.environ["PYTHONSAFEPATH"] == "1"
