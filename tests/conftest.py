"""Tests find their shared modules beside this file, start with the signals of a terminal, and share the processors."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

# A shell's background job ignores SIGINT, and so would every command that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Modules are compiled once for all the processes that tests start, also where the environment forbids it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A report takes a second a build: the tests of reports write theirs.
os.environ["MAGPIE_REPORT"] = "0"

GIB = 1 << 30
A_TEST_TAKES = 5 * GIB  # at most: a real model in its engine, with the libraries around it


def _own_processors() -> None:
    """Bind a process of `pytest -n` to its own part of the processors.

    Real models start a thread a processor, which wait for each other busily: two of them on the same processors are
    many times slower than one after the other. What is bound to a part sizes itself by that part.
    """
    number, count = (
        os.environ.get("PYTEST_XDIST_WORKER", ""),
        os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"),
    )
    if number.startswith("gw") and hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))
        if mine := processors[int(number[2:]) :: int(count)]:
            os.sched_setaffinity(0, mine)


_own_processors()


@pytest.hookimpl(optionalhook=True)  # the hook is pytest-xdist's
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many processes as there are processors, and no more than have room for a model each."""
    from magpie.machine import free_memory, processors

    return max(1, min(processors(), free_memory() // A_TEST_TAKES))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process is left with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
