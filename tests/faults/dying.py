"""The command, run again and again in forks of one process, and killed or held where it changes files.

`python dying.py ARGUMENTS` reads lines: "run", "kill N" or "hold N", where N counts the moments at which the command is
about to change a file, or has just done it. Each line is answered by a JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHANGES = {"replace", "rename", "unlink", "remove", "link", "fsync", "mkdir", "rmdir", "ftruncate"}


@dataclass
class Dying:
    """A command in a process that forks one for each time it is to run."""

    process: subprocess.Popen[str]

    def run(self) -> int:
        """Run it to its end; how many moments it has. Fails unless it went well and complained of nothing."""
        answer = self._ask("run")
        assert answer["code"] == 0, answer
        return int(answer["moments"])

    def kill(self, moment: int) -> None:
        """Run it, and kill it at a moment."""
        answer = self._ask(f"kill {moment}")
        assert answer["code"] == -signal.SIGKILL, answer

    @contextlib.contextmanager
    def held(self, moment: int) -> Iterator[None]:
        """Run it, and hold it still at a moment while the block lasts; then it must go on to a good end."""
        pid = self._ask(f"hold {moment}")["held"]
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)
            answer = self._answer()
        assert answer["code"] == 0, answer

    def _ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline()))


@contextlib.contextmanager
def dying(*arguments: str | Path) -> Iterator[Dying]:
    """The command with these arguments."""
    from command import ENVIRONMENT  # not above: the tests' modules are not on the path of the process

    command = [sys.executable, __file__, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        try:
            yield Dying(process)
        finally:
            process.kill()


def _serve(arguments: list[str]) -> None:
    # Loaded once for all forks. None of it begins a thread, so that a fork has all of its parent.
    import duckdb  # noqa: F401
    import pandas  # noqa: F401 - Arrow imports it where it is there
    import pyarrow.dataset
    import pyarrow.pandas_compat
    import pyarrow.parquet  # noqa: F401
    import rich.console  # noqa: F401

    import magpie.api
    import magpie.cli
    import magpie.data.select
    import magpie.publish.formats
    import magpie.report.filter_tables
    import magpie.runs.kept

    for line in sys.stdin:
        order, _, number = line.strip().partition(" ")
        said, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(said)
            _run(magpie.cli.app, arguments, order, int(number or -1), tell)
        os.close(tell)
        _, status = os.waitpid(child, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            print(json.dumps({"held": child}), flush=True)
            _, status = os.waitpid(child, 0)
        with os.fdopen(said) as pipe:
            told = pipe.read()
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), **json.loads(told or "{}")}), flush=True)


def _run(app: Any, arguments: list[str], order: str, last: int, tell: int) -> None:
    """In the fork: run the command, and end."""
    moments = 0

    def watch(frame: Any, event: str, function: Any) -> None:
        nonlocal moments
        is_change = event in {"c_call", "c_return"} and function.__module__ == "posix"
        if is_change and function.__name__ in _CHANGES:
            moments += 1
            if moments == last:
                os.kill(os.getpid(), signal.SIGKILL if order == "kill" else signal.SIGSTOP)

    code, said = 1, ""
    try:
        with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing):
            threading.setprofile(watch)
            sys.setprofile(watch)
            code = app(arguments, standalone_mode=False) or 0
            sys.setprofile(None)
    except BaseException as error:
        said = repr(error)
    os.write(tell, json.dumps({"moments": moments, "said": said}).encode())
    os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1:])
