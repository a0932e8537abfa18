"""Odd surroundings: no home, terminal, Unicode or folder to stand in, a signal at once: one line, or it works."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import ENVIRONMENT, done, magpie, refusal, start, write_recipe

from magpie.build import build
from magpie.recipe.loading import load_recipe
from magpie.runs.run import Run
from magpie.runs.verify import verify

NON_LATIN = "Größe, 你好吗, مرحبا"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose rule has a name that few terminals of old can show."""
    rules = [{"name": NON_LATIN, "where": "instruction IS NOT NULL"}]
    folder = tmp_path_factory.mktemp("recipe")
    return write_recipe(folder / "small.yaml", rows=16, filter={"name": "all", "rules": rules})


@pytest.fixture(scope="module")
def run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "run"
    build(load_recipe(str(recipe)), folder)
    return folder


def around(without: str = "", **changes: str) -> dict[str, str]:
    return {name: value for name, value in (ENVIRONMENT | changes).items() if name != without}


@pytest.mark.parametrize(
    "environment",
    [
        around(without="HOME"),
        around(
            HOME="/dev/null", XDG_CACHE_HOME="/dev/null/cache", HF_HOME="/dev/null/hub", TMPDIR="/nowhere"
        ),
        around(LANG="C", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="latin-1"),
    ],
    ids=["no home", "nothing can be written but the run", "Latin-1"],
)
def test_a_build_needs_nothing_but_its_run_folder(
    tmp_path: Path, recipe: Path, environment: dict[str, str]
) -> None:
    process = start("build", recipe, "--out", tmp_path / "run", env=environment, errors="replace")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, ""), err
    assert "Read it" in out
    assert verify(Run.open(tmp_path / "run")) == []


def test_a_model_that_is_kept_nowhere_names_the_variable(tmp_path: Path) -> None:
    environment = around(HOME="/dev/null", MAGPIE_CACHE="/dev/null/cache")
    said = refusal(magpie("doctor", "demo", "--no-sample", env=environment))
    assert "set MAGPIE_CACHE to a folder that can be written" in said


@pytest.mark.parametrize("streams", [">&-", ">&- 2>&-", "</dev/null >/dev/full", "| head -1"])
def test_a_build_outlives_its_terminal(tmp_path: Path, recipe: Path, streams: str) -> None:
    folder = tmp_path / "run"
    line = f'set -o pipefail; "$0" -m magpie build "$1" --out "$2" {streams}'
    command = ["bash", "-c", line, sys.executable, str(recipe), str(folder)]
    result = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stderr.splitlines()) <= 1 and "Traceback" not in result.stderr
    assert verify(Run.open(folder)) == []


def test_a_working_directory_that_is_gone_is_said(tmp_path: Path, run: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f'cd {gone} && rmdir {gone} && exec "$0" -P -m magpie status {run}'
    result = subprocess.run(
        ["bash", "-c", line, sys.executable], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert "the working directory cannot be used" in refusal(result)


def test_no_shared_memory_is_needed(tmp_path: Path, recipe: Path) -> None:
    inside = [
        "unshare",
        "-m",
        "--",
        "bash",
        "-c",
        'mount -t tmpfs -o ro,size=4k none /dev/shm && exec "$@"',
        "-",
    ]
    probe = subprocess.run([*inside, "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("this system lets nobody mount anything")
    done(magpie("build", recipe, "--out", tmp_path / "run", before=inside))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_before_anything_has_begun_is_one_line(number: signal.Signals) -> None:
    """The command's own first moment: Python's, before it, belongs to Python."""
    send = f"import os; os.kill(os.getpid(), {int(number)})"
    # Sent while the command imports what it is made of, whichever module comes first.
    plant = (
        "import sys\n"
        "class Sender:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'magpie.cli': {send}\n"
        "sys.meta_path.insert(0, Sender())\n"
        "from magpie.__main__ import main\n"
        "main()\n"
    )
    command = [sys.executable, "-P", "-c", plant]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60)
    assert "run the same command again" in refusal(result, code=130)
