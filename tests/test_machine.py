"""Memory and processors are those of the container, of the shell and of the binding, not those of the host."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from magpie import machine
from magpie.machine import seldom_collected

GIB = 1 << 30


def host(root: Path, group: str, mount: str) -> Path:
    files = {
        "proc/meminfo": "MemTotal: 67108864 kB\nMemAvailable: 50331648 kB\n",
        "proc/self/status": "VmSize: 1048576 kB\nVmRSS: 524288 kB\n",
        "proc/self/cgroup": group,
        "proc/self/mountinfo": mount,
    }
    return write(root, files)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def version_2(root: Path) -> Path:
    return host(root, "0::/a/b\n", "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n")


def test_without_limits_the_machine_counts(tmp_path: Path) -> None:
    root = version_2(tmp_path)
    (root / "sys/fs/cgroup/a/b").mkdir(parents=True)
    assert (machine.memory_limit(root), machine.free_memory(root)) == (64 * GIB, 48 * GIB)
    write(root, {"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"})
    assert machine.memory_limit(root) == 64 * GIB


@pytest.mark.parametrize("name", ["a/b/memory.max", "a/b/memory.high", "a/memory.max"])
def test_every_limit_of_version_2_counts(tmp_path: Path, name: str) -> None:
    root = write(version_2(tmp_path), {f"sys/fs/cgroup/{name}": f"{4 * GIB}\n"})
    (root / "sys/fs/cgroup/a/b").mkdir(parents=True, exist_ok=True)
    folder = (root / "sys/fs/cgroup" / name).parent
    (folder / "memory.current").write_text(f"{2 * GIB}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {GIB}\n")
    assert (machine.memory_limit(root), machine.free_memory(root)) == (4 * GIB, 3 * GIB)


def test_a_limit_of_version_1_counts(tmp_path: Path) -> None:
    groups = "4:memory:/docker/x\n1:cpu,cpuacct:/docker/x\n"
    mounts = (
        "30 23 0:27 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "31 23 0:28 /docker/x /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    )
    limits = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    root = write(host(tmp_path, groups, mounts), limits)
    assert (machine.memory_limit(root), machine.free_memory(root)) == (2 * GIB, GIB)
    assert machine.processors(root) == 1
    write(root, {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"})
    assert machine.memory_limit(root) == 64 * GIB


def test_a_quota_of_processors_counts(tmp_path: Path) -> None:
    root = write(version_2(tmp_path), {"sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"})
    assert machine.processors(root) == 1


def test_ulimit_counts(tmp_path: Path) -> None:
    code = "from magpie import machine; print(machine.memory_limit() <= 2 ** 30, machine.address_space())"
    result = subprocess.run(
        [sys.executable, "-P", "-c", code],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (GIB, GIB)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == ["True", str(GIB)]


def test_libraries_start_no_more_threads_than_a_quota_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    root = write(version_2(tmp_path), {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n"})
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    machine.limit_threads(root)
    assert "OMP_NUM_THREADS" not in os.environ  # without a quota they count as they always do
    write(root, {"sys/fs/cgroup/a/b/cpu.max": "250000 100000\n"})
    machine.limit_threads(root)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    machine.limit_threads(root)
    assert os.environ["OMP_NUM_THREADS"] == "6"  # a person has said it


def test_cycles_are_looked_for_less_often_while_rows_are_made_and_as_before_afterwards() -> None:
    before = gc.get_threshold()
    with pytest.raises(KeyError), seldom_collected():
        assert gc.get_threshold()[0] == 100_000
        raise KeyError
    assert gc.get_threshold() == before
    gc.set_threshold(0)  # somebody wants none at all
    try:
        with seldom_collected():
            assert gc.get_threshold()[0] == 0
    finally:
        gc.set_threshold(*before)
