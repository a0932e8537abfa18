"""Vectors of length 1, read from what they are stored in."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_vectors_that_cannot_be_written_to_are_read_without_a_warning() -> None:
    pytest.importorskip("torch", reason="no PyTorch here")
    # PyTorch warns once a process: in one of its own, the warning cannot have been before.
    code = (
        "import warnings, torch, numpy as np; warnings.simplefilter('error')\n"
        "from magpie.neighbors.vectors import UnitVectors\n"
        "stored = np.eye(4, dtype=np.float16); stored.flags.writeable = False\n"
        "print(len(UnitVectors.of(stored)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "4\n"
