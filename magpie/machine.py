"""What this process may use of the machine (memory, processors, open files), and how it is asked to stop.

A container, a batch system or a shell may allow less than the machine has: cgroups (version 1 and 2, of the process and
of every group above it), `ulimit`, and the processors that the process is bound to. Everything that sizes something by
the machine asks here. Sizes are in bytes.
"""

from __future__ import annotations

import gc
import math
import os
import platform
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STOPS = tuple(
    number
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if (number := getattr(signal, name, None)) is not None
)
"""The signals that ask a command to stop: Ctrl-C, what runs the machine, a terminal that closes, Slurm before it ends
a job. Not all systems have all of them."""

_ALLOCATIONS = 100_000
"""Objects made, less those let go, between two looks for unreachable cycles; Python's own number is 700."""

ROOT = Path("/")
_UNLIMITED = 1 << 60  # version 1 writes a number near 2 ** 63 where there is no limit

_sharing = 1
_threads_set: str | None = None


def share(processes: int) -> None:
    """Say that so many processes like this one share the machine: each uses its part of processors and memory."""
    global _sharing  # noqa: PLW0603
    _sharing = max(1, processes)


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Have Python look for unreachable cycles less often as long as the block lasts.

    Thousands of requests wait at once. Each look goes over the objects of them all and finds nothing: on the scripted
    engine 20,000 rows of the demo recipe took 12.0 s, and take 9.4 s.
    """
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], _ALLOCATIONS) if before[0] else 0, *before[1:])  # 0 is: never
    try:
        yield
    finally:
        gc.set_threshold(*before)


def computes_in_bfloat16() -> bool:
    """Whether the processors multiply bfloat16 in hardware (on x86: AVX512-BF16 or AMX).

    Others emulate it, and are faster in float32: a product of 256 rows with 576 x 1,536 weights eight times as fast on
    one core with AVX2 (67 GFLOP/s instead of 8.5).
    """
    import torch

    if platform.machine().lower() in {"arm64", "aarch64"}:
        return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


def memory_limit(root: Path = ROOT) -> int:
    """The most memory this process may come to use: the machine's own, or what a limit leaves of it."""
    limits = [limit for limit, _ in _memory_groups(root)]
    return min([_meminfo(root, "MemTotal"), *limits, *_limits_of_shell()])


def free_memory(root: Path = ROOT) -> int:
    """How much more memory this process may take now. Files that the system keeps in memory count as free."""
    free = [max(limit - used, 0) for limit, used in _memory_groups(root)]
    free += [max(limit - _own("VmSize", root), 0) for limit in _limits_of_shell()]
    return min([_meminfo(root, "MemAvailable"), *free]) // _sharing


def used_memory(root: Path = ROOT) -> int:
    """How much memory this process has now."""
    return _own("VmRSS", root)


def processors(root: Path = ROOT) -> int:
    """How many processors this process may use: those it is bound to, or fewer where a group's quota says so."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *(math.ceil(quota) for quota in _quotas(root))]) // _sharing)


def limit_threads(root: Path = ROOT) -> None:
    """Have libraries start as many threads as a quota of this process's group has processors for, unless told more.

    They count the processors that the process is bound to. Where a quota allows fewer, threads wait for one another.
    It must be called before they are loaded.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = min((math.ceil(quota) for quota in _quotas(root)), default=bound)
    if allowed < bound and "OMP_NUM_THREADS" not in os.environ:
        global _threads_set  # noqa: PLW0603
        _threads_set = os.environ["OMP_NUM_THREADS"] = str(max(1, allowed))


def threads_asked() -> str | None:
    """What a person has set OMP_NUM_THREADS to; None where it is not set, or only by `limit_threads`."""
    asked = os.environ.get("OMP_NUM_THREADS")
    return None if asked == _threads_set else asked


def address_space() -> int | None:
    """The limit of `ulimit -v`, or of `ulimit -d`; None without one."""
    return min(_limits_of_shell(), default=None)


def raise_open_files(wanted: int) -> None:
    """Allow this process `wanted` open files, or as many as it may allow itself: shells often start with few."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError):
            return  # it does with what it has


def _limits_of_shell() -> list[int]:
    try:
        import resource
    except ImportError:  # not on Windows
        return []
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return [limit for limit in limits if limit != resource.RLIM_INFINITY and 0 <= limit < _UNLIMITED]


def _memory_groups(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) of each group around this process that limits memory."""
    for folder in _groups(root, ""):
        used = _number(folder / "memory.current")
        cached = _field(folder / "memory.stat", "inactive_file")
        # Above memory.high the system slows the process down until it hardly moves.
        for name in ("memory.max", "memory.high"):
            limit = _number(folder / name)
            if limit is not None and limit < _UNLIMITED:
                yield limit, max((used or 0) - cached, 0)
    for folder in _groups(root, "memory"):
        limit = _number(folder / "memory.limit_in_bytes")
        if limit is not None and limit < _UNLIMITED:
            used = _number(folder / "memory.usage_in_bytes") or 0
            yield limit, max(used - _field(folder / "memory.stat", "total_inactive_file"), 0)


def _quotas(root: Path) -> Iterator[float]:
    """How many processors' time each group around this process may use."""
    for folder in _groups(root, ""):
        words = _text(folder / "cpu.max").split()
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
            yield int(words[0]) / int(words[1])
    for folder in _groups(root, "cpu"):
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota is not None and quota > 0 and period:
            yield quota / period


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the group of this process and of those above it; of version 2 where `controller` is ""."""
    group = _group(root, controller)
    if group is None:
        return
    for mount, shown in _mounts(root, controller):
        # In a container the mount shows a part of the tree: the group may be named by its path on the host.
        inside = group.removeprefix(shown) if shown != "/" and group.startswith(shown) else group
        folder = root / mount.lstrip("/")
        steps = [part for part in inside.split("/") if part not in {"", ".", ".."}]
        for depth in range(len(steps), -1, -1):
            here = folder.joinpath(*steps[:depth])
            if here.is_dir():
                yield here


def _group(root: Path, controller: str) -> str | None:
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        if controller in controllers.split(","):
            return group
    return None


def _mounts(root: Path, controller: str) -> Iterator[tuple[str, str]]:
    """(where it is mounted, which group is its top) of each mount of this controller's groups."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = [*after.split(" ", 2), "", "", ""][:3]
        words = before.split(" ")
        if len(words) < 5:
            continue
        is_wanted = controller in options.split(",") if controller else True
        if kind == ("cgroup" if controller else "cgroup2") and is_wanted:
            yield words[4], words[3]


def _meminfo(root: Path, name: str) -> int:
    kib = _field(root / "proc/meminfo", f"{name}:")
    if kib:
        return kib << 10
    import psutil  # where there is no /proc

    memory = psutil.virtual_memory()
    return int(memory.total if name == "MemTotal" else memory.available)


def _own(name: str, root: Path) -> int:
    return _field(root / "proc/self/status", f"{name}:") << 10


def _field(path: Path, name: str) -> int:
    """The number after `name` in a file of names and numbers; 0 without it."""
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == name and words[1].isdecimal():
            return int(words[1])
    return 0


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdecimal() else None  # "max" is no limit


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
