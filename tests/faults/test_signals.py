"""SIGINT, SIGTERM and SIGUSR1: a build stops soon, says in one line how to go on, and goes on to the same bytes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from builds import scripted, small_recipe, tree
from command import ENVIRONMENT, done, magpie, refusal, start, write_recipe

from magpie.build import build
from magpie.errors import StoppedError
from magpie.execution.signals import Stoppable
from magpie.neighbors.vectors import ProgressCallback
from magpie.runs.run import Run
from magpie.runs.verify import verify
from magpie.steps.dedup import Deduplicator

BOTH = (signal.SIGINT, signal.SIGTERM)
MOMENTS = (
    '"event": "doing"',  # the first line of the log: models and templates are being read
    '"step": "instruct"',
    '"what": "dedup"',
    '"step": "tag"',
    '"what": "filter"',
    '"what": "writing the dataset"',
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = scripted(tokens_per_second=1000, slots=48)
    return write_recipe(tmp_path_factory.mktemp("recipe") / "small.yaml", models=models)


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done(magpie("build", recipe, "--out", folder))
    return tree(folder)


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    while not happened():
        assert process.poll() is None, "the build was over too soon"
        time.sleep(0.0005)


def says(folder: Path, text: str) -> Callable[[], bool]:
    path = folder / "log.jsonl"
    return lambda: path.exists() and text in path.read_text()


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.parametrize("number", BOTH, ids=lambda number: number.name)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stopped_build_says_how_to_go_on_and_goes_on(
    tmp_path: Path, recipe: Path, undisturbed: dict[str, bytes], number: signal.Signals, moment: str
) -> None:
    folder = tmp_path / "run"
    process = start("build", recipe, "--out", folder)
    wait_for(process, says(folder, moment))
    process.send_signal(number)
    line = refusal(ended(process), code=130)
    assert number.name in line
    assert "run the same command again to go on" in line
    done(magpie("build", recipe, "--out", folder))
    assert verify(Run.open(folder)) == []
    assert tree(folder) == undisturbed


@pytest.mark.parametrize(("number", "grace"), [(signal.SIGTERM, 0), (signal.SIGUSR1, 60)])
def test_shards_in_flight_are_finished_within_the_time_of_grace(
    tmp_path: Path, number: signal.Signals, grace: int
) -> None:
    """Of six shards some are begun when it is told to stop: with time they are finished, and no other is begun."""
    models = scripted(tokens_per_second=100, min_tokens=50, max_tokens=50, slots=8)
    recipe = write_recipe(tmp_path / "r.yaml", models=models, extend=None, tag=None, filter=None)
    folder = tmp_path / "run"
    process = start("build", recipe, "--out", folder, "--grace", str(grace))
    wait_for(process, says(folder, '"what": "instruct'))
    time.sleep(0.2)
    process.send_signal(number)
    assert number.name in refusal(ended(process), code=130)
    made = [path.name for path in (folder / "steps" / "01-instruct").glob("*.parquet")]
    assert "finished, if the time of grace" in (folder / "log.jsonl").read_text()
    assert (0 < len(made) < 6) if grace else not made
    done(magpie("build", recipe, "--out", folder))
    assert verify(Run.open(folder)) == []


def test_a_slow_step_in_a_thread_does_not_hold_up_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A global step over millions of rows takes long and cannot be interrupted: what it makes is dropped."""
    at_work, go_on = threading.Event(), threading.Event()
    work_it_out, ended = Deduplicator.run_all, threading.Event()

    def slowly(work: Deduplicator, rows: pa.Table, on_progress: ProgressCallback) -> pa.Table:
        at_work.set()
        try:
            assert go_on.wait(60)
            return work_it_out(work, rows, on_progress)
        finally:
            ended.set()

    monkeypatch.setattr(Deduplicator, "run_all", slowly)

    def interrupt() -> None:
        assert at_work.wait(60)
        os.kill(os.getpid(), signal.SIGTERM)

    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(StoppedError, match="SIGTERM"):
        build(small_recipe(), tmp_path / "run")
    helper.join()
    before = tree(tmp_path / "run")
    go_on.set()
    assert ended.wait(60)
    monkeypatch.undo()
    time.sleep(0.2)
    assert tree(tmp_path / "run") == before
    whole = build(small_recipe(), tmp_path / "whole")
    assert tree(build(small_recipe(), tmp_path / "run").folder) == tree(whole.folder)


def test_a_second_signal_ends_what_will_not_let_go() -> None:
    """Work that refuses to be cancelled has the time of grace; a second Ctrl-C does not wait for it."""

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    async def stubborn() -> None:
        threading.Timer(0.1, interrupt).start()
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if not again:
                    again.append(threading.Timer(0.1, interrupt))
                    again[0].start()

    again: list[threading.Timer] = []
    with pytest.raises(StoppedError, match="SIGINT"), Stoppable() as stoppable:
        stoppable.run(stubborn())
    assert again


def test_signals_are_handled_as_before_when_the_build_is_over(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in BOTH]
    build(small_recipe(), tmp_path / "run")
    assert [signal.getsignal(number) for number in BOTH] == before


def test_a_build_outside_the_main_thread_leaves_signals_alone(tmp_path: Path) -> None:
    runs: list[Run] = []
    thread = threading.Thread(target=lambda: runs.append(build(small_recipe(), tmp_path / "run")))
    thread.start()
    thread.join()
    assert verify(runs[0]) == []


@pytest.mark.parametrize("verb", ["build", "doctor"])
@pytest.mark.parametrize("number", BOTH, ids=lambda number: number.name)
def test_stopped_while_the_hub_does_not_answer(tmp_path: Path, number: signal.Signals, verb: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hub:
        url = f"http://127.0.0.1:{hub.getsockname()[1]}"
        name = "nobody/nothing"
        recipe = write_recipe(
            tmp_path / "r.yaml", models={"generator": name, "embedder": name}, tag=None, filter=None
        )
        arguments = [recipe, "--engine", "transformers", "--out", tmp_path / "run"]
        what = [name, "--no-sample"] if verb == "doctor" else arguments
        process = start(verb, *what, env=ENVIRONMENT | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path)})
        hub.settimeout(60)
        connection, _ = hub.accept()
        with connection:
            process.send_signal(number)
            assert "run the same command again" in refusal(ended(process), code=130)
