"""Children that are started find their modules where Python does, and never in the current folder."""

import json
import os
import signal
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from magpie.engines.vllm import orphans
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


_FORKS_WHILE_IT_IS_WATCHED = """
import os, time
from magpie.engines.vllm import orphans
with orphans.watch():
    pass
if os.fork() == 0:
    time.sleep(600)
print(orphans._watcher.pid, flush=True)
time.sleep(600)
"""


def test_a_forked_child_does_not_keep_the_watcher_waiting() -> None:
    """It holds the other end of the watcher's pipe, which then does not close when we end."""
    command = [sys.executable, "-P", "-c", _FORKS_WHILE_IT_IS_WATCHED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        watcher = psutil.Process(int(parent.stdout.readline()))
        forked = [child for child in psutil.Process(parent.pid).children() if child != watcher]
        try:
            parent.kill()
            gone, _ = psutil.wait_procs([watcher], timeout=60)
            assert gone or watcher.status() == psutil.STATUS_ZOMBIE
        finally:
            for child in forked:
                child.kill()


_TERMINAL_CLOSES = "import os, signal; os.kill(os.getpid(), signal.SIGHUP)"
_AND_STARTS_ONE = f"""
{_TERMINAL_CLOSES}
import subprocess, sys
raise SystemExit(subprocess.run([sys.executable, "-c", {_TERMINAL_CLOSES!r}]).returncode)
"""


def test_a_terminal_that_closes_ends_no_process_of_an_engine() -> None:
    """Neither one that is started in the thread that loads an engine, nor one that is started by that."""
    blocked, codes = signal.pthread_sigmask(signal.SIG_BLOCK, ()), list[int]()

    def load() -> None:
        command = [sys.executable, "-P", "-c"]
        with orphans.watch():
            codes.append(subprocess.run([*command, _AND_STARTS_ONE], check=False, timeout=120).returncode)
        codes.append(subprocess.run([*command, _TERMINAL_CLOSES], check=False, timeout=120).returncode)

    loading = threading.Thread(target=load)
    loading.start()
    loading.join()
    assert codes == [0, -signal.SIGHUP]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked


_NOT_GUARDED = """
import multiprocessing, sys
from magpie.engines.vllm.spawn import without_main

print("the script runs", flush=True)
spawn = multiprocessing.get_context("spawn")
with without_main():
    child = spawn.Process(target=print, args=("the child runs",))
    child.start()
child.join()
raise SystemExit(child.exitcode)
"""


def test_a_script_is_not_run_again_by_the_processes_of_the_engine(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_NOT_GUARDED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines() == ["the script runs", "the child runs"]


def test_every_variable_that_is_set_for_vllm_is_one_that_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("vllm") is None:
        pytest.skip("vllm is not installed")
    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        monkeypatch.delenv(name)
    prepare_environment()
    ours = {name for name in os.environ if name.startswith("VLLM_")}
    read = "import json, vllm.envs; print(json.dumps([*vllm.envs.environment_variables]))"
    done = subprocess.run(
        [sys.executable, "-c", read], capture_output=True, text=True, check=True, timeout=120
    )
    assert len(ours) >= 4 and ours <= set(json.loads(done.stdout.splitlines()[-1]))


def test_engines_are_never_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "fork")
    prepare_environment()
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"


def test_the_processes_of_vllm_are_started_safely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.delenv("PYTHONSAFEPATH")
    prepare_environment()
    assert os.environ["PYTHONSAFEPATH"] == "1"
