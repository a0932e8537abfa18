"""`kill -9` of a build at fifty moments of its life: nothing is lost, doubled or changed by it.

The moments are drawn with fixed seeds. Half fall anywhere on the clock, start-up included; some come down on one run
again and again; and some are aimed at what is over too quickly to be hit by chance. Builds that were over before they
could be killed count for nothing.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from builds import scripted, tree
from command import done, magpie, start, write_recipe

from magpie.runs.run import Run
from magpie.runs.verify import quarantined, verify

BY_THE_CLOCK = 25
CHAINS, KILLS_IN_A_CHAIN = 5, 3
AIMED = (
    "reading models",
    "started",
    "loading",
    "instruct",
    "dedup",
    "dedup",
    "filter",
    "filter",
    "writing",
    "writing",
)


SHARDS_KILLED_AT: list[int] = []
"""For each build that was alive when it was killed, how many shards it had committed."""


@dataclass(frozen=True)
class Undisturbed:
    """A build that nothing happened to: its recipe file, its bytes and the seconds it took."""

    recipe: Path
    tree: dict[str, bytes]
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = write_recipe(folder / "small.yaml", models=scripted(tokens_per_second=1000, slots=48))
    magpie("build", recipe, "--out", folder / "first")  # compiles the modules
    began = time.monotonic()
    done(magpie("build", recipe, "--out", folder / "run"))
    seconds = time.monotonic() - began
    assert tree(folder / "first") == tree(folder / "run")
    return Undisturbed(recipe, tree(folder / "run"), seconds)


def kill(recipe: Path, folder: Path, moment: Callable[[], bool], delay: float = 0.0) -> bool:
    """Start the build and kill it `delay` seconds after `moment`; whether it was still alive then."""
    with start("build", recipe, "--out", folder) as build:
        while not moment() and build.poll() is None:
            time.sleep(0.0005)
        time.sleep(delay)
        build.kill()
    if build.returncode != -9:
        return False
    SHARDS_KILLED_AT.append(len(list((folder / "steps").rglob("*.parquet"))))
    return True


def log_lines(folder: Path) -> list[str]:
    path = folder / "log.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def check_it_goes_on(folder: Path, undisturbed: Undisturbed) -> None:
    """The same command once more makes the run whole, and the same to the byte."""
    done(magpie("build", undisturbed.recipe, "--out", folder))
    run = Run.open(folder)
    assert verify(run) == []
    assert tree(folder) == undisturbed.tree
    assert quarantined(run) == []
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("number", range(BY_THE_CLOCK))
def test_killed_at_a_moment_of_the_clock(tmp_path: Path, undisturbed: Undisturbed, number: int) -> None:
    """The moments are spread over the whole life: one in each of 25 equal parts."""
    share = (number + random.Random(number).random()) / BY_THE_CLOCK
    seconds = share * undisturbed.seconds
    for attempt in range(10):
        folder = tmp_path / f"run-{attempt}"
        if kill(undisturbed.recipe, folder, lambda: True, seconds):
            break
        seconds *= 0.9  # the machine is quicker now than it was when the life was measured
    else:
        pytest.fail("the build was over before every kill")
    check_it_goes_on(folder, undisturbed)


@pytest.mark.parametrize("number", range(CHAINS))
def test_killed_again_and_again(tmp_path: Path, undisturbed: Undisturbed, number: int) -> None:
    draw = random.Random(1000 + number)
    folder = tmp_path / "run"
    for _ in range(KILLS_IN_A_CHAIN):
        lines = len(log_lines(folder)) + draw.randint(1, 14)
        delay = draw.uniform(0, 0.01)
        assert kill(undisturbed.recipe, folder, lambda lines=lines: len(log_lines(folder)) >= lines, delay)
    check_it_goes_on(folder, undisturbed)


@pytest.mark.parametrize(("number", "what"), [*enumerate(AIMED)])
def test_killed_while_it_is_at(tmp_path: Path, undisturbed: Undisturbed, number: int, what: str) -> None:
    """Start-up, global steps and the writing of the dataset take milliseconds each."""
    delay = random.Random(2000 + number).uniform(0, 0.03)
    for attempt in range(10):
        folder = tmp_path / f"run-{attempt}"

        def is_at_it(folder: Path = folder) -> bool:
            return any(
                f'"event": "{what}' in line or f'"what": "{what}' in line for line in log_lines(folder)
            )

        if kill(undisturbed.recipe, folder, is_at_it, delay):
            break
        delay /= 2
    else:
        pytest.fail("the build was over before every kill")
    check_it_goes_on(folder, undisturbed)


def test_fifty_builds_were_killed_in_every_part_of_their_lives(
    request: pytest.FixtureRequest, undisturbed: Undisturbed
) -> None:
    """Counted as it was done by the tests above."""
    above = (test_killed_at_a_moment_of_the_clock, test_killed_again_and_again, test_killed_while_it_is_at)
    chosen = [item for item in request.session.items if getattr(item, "function", None) in above]
    if len(chosen) < BY_THE_CLOCK + CHAINS + len(AIMED):
        pytest.skip("only some of the kills were asked for")
    shards = sum(name.startswith("steps/") for name in undisturbed.tree)
    assert len(SHARDS_KILLED_AT) >= 50
    assert SHARDS_KILLED_AT.count(0) >= 3, "before the first shard"
    assert sum(0 < count < shards for count in SHARDS_KILLED_AT) >= 15, "among the shards"
    assert SHARDS_KILLED_AT.count(shards) >= 2, "behind the last shard, while the dataset is written"


def test_a_killed_build_lets_go_of_its_folder(tmp_path: Path, undisturbed: Undisturbed) -> None:
    """And while it lives, no second build is let in."""
    folder = tmp_path / "run"
    with start("build", undisturbed.recipe, "--out", folder) as first:
        while len(log_lines(folder)) < 6 and first.poll() is None:
            time.sleep(0.001)
        first.send_signal(signal.SIGSTOP)  # however slow the second is to start, the first is there
        second = magpie("build", undisturbed.recipe, "--out", folder)
        first.kill()
    assert first.returncode == -9, "the first build was over too soon"
    assert second.returncode == 1
    assert "another build is at work" in second.stderr
    check_it_goes_on(folder, undisturbed)


def test_verify_tells_a_killed_run_from_a_whole_one(tmp_path: Path, undisturbed: Undisturbed) -> None:
    folder = tmp_path / "run"
    assert kill(undisturbed.recipe, folder, lambda: len(log_lines(folder)) > 20)
    found = magpie("verify", folder)
    assert found.returncode == 1
    assert "run the build again" in found.stderr
    assert "not finished" in done(magpie("status", folder))
    check_it_goes_on(folder, undisturbed)
    assert "is whole" in done(magpie("verify", folder))
