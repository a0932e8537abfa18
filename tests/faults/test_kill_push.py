"""A push that is killed at a seeded moment and run again leaves what an undisturbed one leaves, and no commit twice."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random

import pytest
from hub import pushing
from hub.server import TOKEN, Fault, Hub, serving

NAME = "me/small"
KILLS, IN_CI = 30, 4
SEEDS = [
    *range(IN_CI),
    *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(IN_CI, KILLS)),
]
REQUESTS = {False: 19, True: 12}
"""About how many requests a push makes, by LFS and by Xet: a moment beyond the last one kills nothing."""


def start(hub: Hub, folder: Path, home: Path, *, xet: bool) -> subprocess.Popen[str]:
    environ = os.environ | {
        "HF_TOKEN": TOKEN, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "0" if xet else "1",
    }  # fmt: skip
    command = [sys.executable, pushing.__file__, hub.url, NAME, str(folder)]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_push_is_run_again(seed: int, tmp_path: Path) -> None:
    """By LFS and by Xet in turn: at a request, before or after the hub has done what it asks, or a little later."""
    draw = Random(seed)
    xet = bool(seed % 2)
    moment = (draw.randrange(REQUESTS[xet]), draw.choice(["before", "after"]))
    later = draw.choice([0.0, draw.uniform(0, 0.1)])  # in the middle of what comes next
    folder = pushing.make_folder(tmp_path / "dataset")
    with serving(Hub(tmp_path / "hub")) as hub:
        process = start(hub, folder, tmp_path / "home", xet=xet)

        def kill(number: int, when: str) -> None:
            if (number, when) == moment:
                if later:
                    threading.Timer(later, process.kill).start()
                else:
                    process.kill()

        hub.at_request = kill
        out, err = process.communicate(timeout=120)
        assert process.returncode in {0, -9}, out + err
        time.sleep(later)
        hub.at_request = lambda number, when: None
        again = start(hub, folder, tmp_path / "home", xet=xet)
        out, err = again.communicate(timeout=120)
        assert again.returncode == 0, err
        assert TOKEN not in out + err
        there = hub.contents(NAME)
        del there[".gitattributes"]
        assert there == {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        titles = [commit.title for commit in hub.repositories[NAME].history()]
        assert titles == ["Upload small with magpie", "initial commit"]


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (Fault("xet token", status=503), None),
        (Fault("xet token", cut="before"), None),
        (Fault("xet token", at=tuple(range(99)), status=403), "cannot send"),
    ],
    ids=["down", "cut", "refused"],
)
def test_faults_on_the_way_to_xet(fault: Fault, line: str | None, tmp_path: Path) -> None:
    folder = pushing.make_folder(tmp_path / "dataset")
    with serving(Hub(tmp_path / "hub")) as hub:
        hub.faults = [fault]
        process = start(hub, folder, tmp_path / "home", xet=True)
        out, err = process.communicate(timeout=120)
        assert "xet token" in hub.seen
        assert TOKEN not in out + err
        if line is None:
            assert process.returncode == 0, err
            assert len(hub.repositories[NAME].history()) == 2
        else:
            assert line in err.splitlines()[-1]
            assert list(hub.contents(NAME)) == [".gitattributes"]
