"""Models made here: whole or not at all, and by one process at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest

from magpie.errors import ModelError
from magpie.models import cache_folder
from magpie.models.cache import made_once


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MAGPIE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("MAGPIE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "magpie"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "magpie"


MAKE = """
import sys, time
from pathlib import Path
from magpie.models.cache import made_once

def make(to):
    (to / "half").write_text("1")
    with Path(sys.argv[2]).open("a") as log:
        log.write("begun\\n")
    time.sleep(float(sys.argv[3]))
    (to / "whole").write_text("2")

print(sorted(path.name for path in made_once(Path(sys.argv[1]), make).iterdir()))
"""


def making(folder: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKE, str(folder), str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_make_one_folder(tmp_path: Path) -> None:
    both = [making(tmp_path / "cache" / "made", tmp_path / "log", 0.5) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["['half', 'whole']\n"] * 2
    assert (tmp_path / "log").read_text() == "begun\n"


def test_a_killed_conversion_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    folder, log = tmp_path / "made", tmp_path / "log"
    process = making(folder, log, 60)
    deadline = monotonic() + 60
    while not log.exists() and monotonic() < deadline:
        sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not folder.exists()
    again = making(folder, log, 0)
    assert again.communicate(timeout=60)[0] == "['half', 'whole']\n"


def test_a_cache_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="set MAGPIE_CACHE"):
        made_once(tmp_path / "file" / "made", lambda to: None)


def test_without_a_home_folder_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAGPIE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ModelError, match="no home folder to keep models in; set MAGPIE_CACHE"):
        cache_folder()
    monkeypatch.setenv("MAGPIE_CACHE", "~nobody-of-that-name/cache")
    with pytest.raises(ModelError, match="set MAGPIE_CACHE to a folder that can be written"):
        cache_folder()


def test_what_cannot_be_made_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    def make(to: Path) -> None:
        raise OSError("Unable to load\nweights")

    with pytest.raises(ModelError, match=r"model cannot be made \(Unable to load weights\); check the files"):
        made_once(tmp_path / "model", make)
    assert not (tmp_path / "model").exists()
