"""One build at a time, also on disks without locks: there a file that its owner touches stands for the lock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from builds import small_recipe

from magpie.build import build
from magpie.errors import RunError, StorageError
from magpie.runs.verify import verify
from magpie.storage import LocalStorage
from magpie.storage.lease import is_over
from magpie.storage.lock import LEASE, LOCK, holder, locked
from magpie.storage.owner import Owner

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def answer(number: int) -> None:
        def flock(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    return answer


def write_lease(folder: Path, *, machine: str, pid: int = 1, began: int = 1, age: float = 0.0) -> Path:
    path = folder / LEASE
    owner = {"machine": machine, "pid": pid, "began": began}
    path.write_text(json.dumps({"host": "elsewhere", "pid": pid, "since": 1.0, "owner": owner}) + "\n")
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("number", NO_LOCKS, ids=lambda number: errno.errorcode[number])
def test_where_there_are_no_locks_a_file_stands_for_one(
    tmp_path: Path, no_locks: Callable[[int], None], number: int, caplog: pytest.LogCaptureFixture
) -> None:
    no_locks(number)
    assert holder(tmp_path) is None
    with locked(tmp_path):
        assert (tmp_path / LEASE).is_file() and f"the file {LEASE} keeps other builds out" in caplog.text
        there = holder(tmp_path)
        assert there is not None and there.pid == os.getpid()
        with (
            pytest.raises(RunError, match=f"another build is at work .*process {os.getpid()}"),
            locked(tmp_path),
        ):
            pass
    assert [path.name for path in tmp_path.iterdir()] == [LOCK] and holder(tmp_path) is None
    with locked(tmp_path):
        pass


def test_an_error_of_the_lock_that_says_something_else_is_one_line(
    tmp_path: Path, no_locks: Callable[[int], None]
) -> None:
    no_locks(errno.EIO)
    with pytest.raises(StorageError, match="Input/output error; check the disk"), locked(tmp_path):
        pass
    assert not (tmp_path / LEASE).exists()


def test_a_lease_counts_while_its_owner_lives_or_touches_it(
    tmp_path: Path, no_locks: Callable[[int], None]
) -> None:
    here = Owner.me().machine
    for age, machine, pid in ((0.0, "00000000", 1), (50.0, "00000000", 1), (5000.0, here, os.getpid())):
        began = Owner.me().began if pid == os.getpid() else 1
        write_lease(tmp_path, machine=machine, pid=pid, began=began, age=age)
        with pytest.raises(RunError, match=r"process .* on elsewhere"), locked(tmp_path):
            pass  # by one with locks as well: the disk may give them to some machines only
    no_locks(errno.ENOLCK)
    with pytest.raises(RunError, match=r"process .* on elsewhere"), locked(tmp_path):
        pass


def test_a_lease_of_a_dead_owner_or_an_old_one_is_taken(
    tmp_path: Path, no_locks: Callable[[int], None]
) -> None:
    no_locks(errno.EOPNOTSUPP)
    for stale in (
        lambda: write_lease(tmp_path, machine=Owner.me().machine, pid=2**22),
        lambda: write_lease(tmp_path, machine=Owner.me().machine, pid=os.getpid(), began=1),  # used again
        lambda: write_lease(tmp_path, machine="00000000", age=90.0),
        lambda: (tmp_path / LEASE).write_bytes(b"") or os.utime(tmp_path / LEASE, (1, 1)),
    ):
        stale()
        assert holder(tmp_path) is None
        with locked(tmp_path):
            there = holder(tmp_path)
            assert there is not None and there.pid == os.getpid()
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_lease_is_touched_and_that_of_another_is_left_alone(
    tmp_path: Path, no_locks: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_locks(errno.ENOLCK)
    monkeypatch.setattr("magpie.storage.lock._TOUCHED_EVERY", 0.01)
    touched = threading.Event()
    utime = os.utime
    monkeypatch.setattr(os, "utime", lambda *a, **k: (utime(*a, **k), touched.set()))
    with locked(tmp_path):
        assert touched.wait(20)
        other = write_lease(tmp_path, machine="00000000")
    assert other.exists()


def test_of_many_who_want_a_lease_one_has_it(tmp_path: Path, no_locks: Callable[[int], None]) -> None:
    no_locks(errno.ENOLCK)
    write_lease(tmp_path, machine="00000000", age=90.0)
    inside, most, ready = list[int](), list[int](), threading.Barrier(6)

    def take(number: int) -> None:
        ready.wait()
        for _ in range(5):
            try:
                with locked(tmp_path):
                    inside.append(number)
                    most.append(len(inside))
                    inside.remove(number)
            except RunError:
                continue

    threads = [threading.Thread(target=take, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most and max(most) == 1
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_build_on_a_disk_without_locks(tmp_path: Path, no_locks: Callable[[int], None]) -> None:
    """One that was killed there holds nobody up."""
    no_locks(errno.ENOLCK)
    code = (
        "import fcntl, os, signal, sys\n"
        "def flock(*_): raise OSError(37, 'No locks available')\n"
        "fcntl.flock = flock\n"
        "from magpie.storage import LocalStorage\n"
        "with LocalStorage(sys.argv[1]).lock(): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tmp_path)], capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL and (tmp_path / LEASE).exists()
    run = build(small_recipe(rows=16, extend=None), tmp_path)
    assert verify(run) == [] and not (tmp_path / LEASE).exists()


# What a folder's file system cannot do


def test_a_folder_that_cannot_be_synced_is_tolerated_where_the_system_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, answer = os.fsync, errno.EINVAL

    def fsync(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError(answer, os.strerror(answer))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    storage = LocalStorage(tmp_path / "new" / "run")
    for answer in (errno.EINVAL, errno.EOPNOTSUPP):
        storage.prepare()
        storage.create(f"a/{answer}", b"one")
        storage.replace(f"a/{answer}", b"two")
        storage.move(f"a/{answer}", f"b/{answer}")
        assert storage.read(f"b/{answer}") == b"two"
        storage.delete(f"b/{answer}")
    answer = errno.EIO
    with pytest.raises(StorageError, match="Input/output error; check the disk"):
        storage.create("c", b"one")


def test_new_folders_are_made_durable_in_those_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, synced = os.fsync, list[str]()

    def fsync(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    storage = LocalStorage(tmp_path / "deep" / "run")
    storage.prepare()
    assert synced == [str(tmp_path), str(tmp_path / "deep")]
    storage.create("steps/01-instruct/00000.parquet", b"one")
    folders = [str(path) for path in (storage.folder, storage.folder / "steps")]
    assert synced[2:4] == folders and synced[-1] == str(storage.folder / "steps" / "01-instruct")


@pytest.mark.parametrize("until", [None, "tomorrow", [], float("nan"), 1.0])
def test_a_lease_of_a_bucket_that_names_no_time_is_over(until: object) -> None:
    assert is_over({"until": until})
    assert not is_over({"until": time.time() + 60})


@pytest.mark.parametrize("data", [b"[]", b"{}", b'{"host": "a", "pid": 1e999, "since": 1}', b"\xff", b"null"])
def test_a_lock_that_says_nothing_of_use_is_held_by_somebody(tmp_path: Path, data: bytes) -> None:
    with locked(tmp_path):
        (tmp_path / LOCK).write_bytes(data)
        there = holder(tmp_path)
        assert there is not None and there.pid == 0
