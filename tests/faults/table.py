"""The table of faults: seeded points over all kinds, each followed by the same command, and what was lost by it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
from bad_store import bad_road
from engines.loopback import Answer, serving
from forks import Mother
from points import (
    MARK,
    SHARD_ROWS,
    SLOTS,
    Hit,
    Setting,
    bad_bucket,
    bad_server,
    damaged,
    file_limit,
    flip,
    full_disk,
    killed_in_rounds,
    signalled,
    tear,
    write_recipes,
    written,
)
from stores import s3_server

from magpie.runs.run import Run
from magpie.runs.verify import quarantined, verify
from magpie.storage import open_storage

Point = Callable[[random.Random, Setting, Path], Hit]

KINDS: dict[str, tuple[int, Point]] = {
    "kill -9 of the driver": (60, signalled(signal.SIGKILL)),
    "rounds: kill -9 of the driver": (30, killed_in_rounds),
    "SIGTERM": (15, signalled(signal.SIGTERM)),
    "SIGUSR1": (8, signalled(signal.SIGUSR1)),
    "SIGINT": (7, signalled(signal.SIGINT)),
    "a full disk": (15, full_disk),
    "a limit on files": (6, file_limit),
    "a flipped bit": (15, damaged(flip)),
    "a torn file": (15, damaged(tear)),
    "server: 429": (6, bad_server(Answer({"error": "slow down"}, 429, {"Retry-After": "0.02"}), 0.3)),
    "server: 503": (6, bad_server(Answer({"error": "busy"}, 503), 0.3)),
    "server: nonsense": (5, bad_server(Answer("<html>hello</html>"), 1.0)),
    "server: hangs up": (5, bad_server(Answer(hang_up=True), 1.0)),
    "S3: 500": (5, bad_bucket("500", 0.1)),
    "S3: 503 SlowDown": (5, bad_bucket("503", 0.1)),
    "S3: cut": (4, bad_bucket("cut", 0.1)),
    "S3: cut, then done": (4, bad_bucket("cut after", 0.1)),
    "S3: kill -9 of the driver": (4, bad_bucket("500", 0.0)),
}
"""Kinds on one machine without Ray: how many points of the whole table, and what each does."""


@dataclass
class Row:
    """What has come of the points of one kind. `repeated` is the most work that was done twice, in shards."""

    kind: str
    points: int = 0
    hit: int = 0  # the others came too late: the build was over
    lost: int = 0
    doubled: int = 0
    corrupt: int = 0
    repeated: float = 0.0
    left: int = 0  # processes
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


@contextmanager
def setting(folder: Path, kinds: Collection[str], *, real_store: bool) -> Iterator[tuple[Setting, str]]:
    """What points of these kinds need, and the name of the S3 server; `folder` is theirs."""
    asks_servers = any(kind.startswith("server") for kind in kinds)
    with ExitStack() as open_things:
        open_things.enter_context(_environment({MARK: uuid.uuid4().hex}))
        given = Setting(Mother(folder, servers=asks_servers), *write_recipes(folder))
        open_things.callback(given.mother.close)
        store = "none"
        if any(kind.startswith("S3") for kind in kinds):
            (folder / "store").mkdir()
            store, url = open_things.enter_context(s3_server(folder / "store", real=real_store))
            given = replace(given, road=open_things.enter_context(bad_road(url)))
        if asks_servers:
            given = replace(given, server=open_things.enter_context(serving(written)))
            _well(given.mother.magpie(*given.asking(folder / "undisturbed-server")))
        _well(given.mother.magpie(*given.build(folder / "first")))
        if any(kind.startswith("rounds") for kind in kinds):
            began = time.monotonic()
            _well(given.mother.magpie(*given.rounds(folder / "undisturbed-rounds")))
            given = replace(given, rounds_seconds=time.monotonic() - began)
        began = time.monotonic()
        _well(given.mother.magpie(*given.build(folder / "undisturbed"), count=str(folder / "requests")))
        yield replace(given, seconds=time.monotonic() - began), store


def _well(ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 0, ended.stderr


def run_point(row: Row, point: Point, seed: int, given: Setting, folder: Path) -> None:
    """One point: the fault, the same command again, and what is to be seen then."""
    began, at_home = time.monotonic(), {process.pid for process in _marked()}
    place = folder / f"point-{seed}"
    place.mkdir()
    row.points += 1
    try:
        hit = point(random.Random(seed), given, place)
        row.hit += hit.did
        ended = hit.again()
        if ended.returncode:
            raise AssertionError(
                f"the same command again ends with {ended.returncode}: {ended.stderr[-300:]}"
            )
        _check(row, hit, None if hit.whole is None else folder / hit.whole)
        if (place / "requests").exists():
            made = (place / "requests").stat().st_size - (folder / "requests").stat().st_size
            row.repeated = max(row.repeated, round(made / _requests_of_a_shard(folder), 2))
    except Exception as error:
        row.failures.append(f"{row.kind}, seed {seed}: {type(error).__name__}: {str(error)[:500]}")
    for process in _left(at_home):
        row.left += 1
        with suppress(psutil.Error):
            row.failures.append(f"{row.kind}, seed {seed}: left behind: {' '.join(process.cmdline())[:200]}")
    row.seconds += time.monotonic() - began
    if os.path.ismount(place / "disk"):
        subprocess.run(["umount", place / "disk"], check=False)
    shutil.rmtree(place, ignore_errors=True)


def _check(row: Row, hit: Hit, whole: Path | None) -> None:
    """Count what is lost, doubled or otherwise not what an undisturbed build has."""
    with _environment(hit.environment or {}):
        run = Run.open(hit.place)
        problems = verify(run)
        mine = run.table()["id"].to_pylist()
        row.lost += run.recipe.rows - len(set(mine))
        row.doubled += len(mine) - len(set(mine))
        made = _files(hit.place)
        differs = [] if whole is None else [at for at, data in _files(whole).items() if made.get(at) != data]
        row.corrupt += bool(problems or differs or len(quarantined(run)) > hit.damaged_shards)
    assert not problems, problems
    assert not differs, differs


def _files(place: str | Path) -> dict[str, bytes]:
    """What a build promises to make identical, by name."""
    storage = open_storage(place)
    names = [name for name in storage.names() if name.startswith(("steps/", "dataset/"))]
    return {name: storage.read(name) for name in [*names, "recipe.yaml", "report.json"]}


def _requests_of_a_shard(folder: Path) -> float:
    rows = len(Run.open(folder / "undisturbed").table())
    return (folder / "requests").stat().st_size / (rows / SHARD_ROWS)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _left(at_home: set[int]) -> list[psutil.Process]:
    """What the points' builds have started and does not end within ten seconds."""
    end = time.monotonic() + 10
    while (
        left := [process for process in _marked() if process.pid not in at_home]
    ) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def _marked() -> list[psutil.Process]:
    """The processes that carry the mark which `setting` gives to all that is started in it."""
    mark, found = os.environ[MARK], []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def in_all(rows: Sequence[Row]) -> dict[str, object]:
    """The table in one object."""
    return {
        "points": sum(row.points for row in rows),
        "hit": sum(row.hit for row in rows),
        "lost": sum(row.lost for row in rows),
        "doubled": sum(row.doubled for row in rows),
        "corrupt": sum(row.corrupt for row in rows),
        "most_repeated_shards": max((row.repeated for row in rows), default=0),
        "shards_in_flight": 2 * SLOTS / SHARD_ROWS + 1,
        "processes_left": sum(row.left for row in rows),
        "failures": [failure for row in rows for failure in row.failures],
        "seconds": round(sum(row.seconds for row in rows)),
    }
