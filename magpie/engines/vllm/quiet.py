"""Standard error, turned aside while a library loads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def standard_error() -> Iterator[None]:
    """Lose what is written to standard error inside; the descriptor itself is turned aside, since C++ writes too."""
    kept = os.dup(2)
    aside = os.open(os.devnull, os.O_WRONLY)
    os.dup2(aside, 2)
    os.close(aside)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
