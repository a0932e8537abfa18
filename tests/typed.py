"""The command as a user types it, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path


def typed(
    *words: str | Path, code: int = 0, quiet: bool = True, module: str = "magpie", **environ: str
) -> str:
    """What the command prints; it must end with `code` and, when that is 0, say nothing on standard error.

    Not `quiet`, it may say there how far it is: it does so when it takes its time.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "140", "NO_COLOR": "1", **environ},
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    if code == 0 and quiet:
        assert done.stderr == ""
    return done.stdout
