"""Keeps the processes that vLLM starts from running the user's script once more.

Python's `spawn` imports the main script in each new process, and a script that is not guarded by
`if __name__ == "__main__"` would start its build there again. vLLM's processes need nothing of it.
"""

from __future__ import annotations

import contextlib
import multiprocessing.spawn
import threading
from collections.abc import Iterator
from typing import Any, Final

_MAIN: Final = ("init_main_from_name", "init_main_from_path")
_here = threading.local()
_original: Final = multiprocessing.spawn.get_preparation_data


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Processes that this thread starts inside do not import the main script. Other threads' are as ever."""
    # Python has no setting for it. Replaced once and for all: two threads may load engines at the same time.
    multiprocessing.spawn.get_preparation_data = _preparation_data
    _here.leaves_main_out = True
    try:
        yield
    finally:
        _here.leaves_main_out = False


def _preparation_data(name: str) -> dict[str, Any]:
    data = _original(name)
    if getattr(_here, "leaves_main_out", False):
        for key in _MAIN:
            data.pop(key, None)
    return data
