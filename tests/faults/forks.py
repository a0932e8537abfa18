"""The command in processes forked from one that has everything loaded: hundreds of builds, each in a tenth of the time.

`python forks.py` is the process they are forked from. It has one thread, as forking wants, and does one command at a
time: a line of JSON in, the process id out, and at the end how it ended.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_LOADED_BEFORE = (
    "magpie.cli", "magpie.build", "magpie.api", "magpie.report.run_table", "magpie.runs.verify",
    "magpie.engines.scripted", "magpie.engines.server", "magpie.storage.objects", "magpie.steps.filter.sql",
    "duckdb", "pandas", "faiss", "pyarrow.parquet", "pyarrow.compute", "httpx", "obstore.store", "tokenizers",
    "transformers",
)  # fmt: skip
_FOR_SERVERS = (
    "torch",
    "transformers.models.auto.tokenization_auto",
    "transformers.modeling_gguf_pytorch_utils",
)
"""What reading a tokenizer takes besides: seconds of imports."""


@dataclass
class Forked:
    """A command at work."""

    pid: int
    mother: Mother
    files: tuple[Path, Path]

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal, if it is still there."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> subprocess.CompletedProcess[str]:
        """How it ended, and what it printed."""
        code = int(self.mother.read())
        out, err = (file.read_text() for file in self.files)
        return subprocess.CompletedProcess([], code, out, err)


class Mother:
    """The process that commands are forked from. `folder` takes what they print. `servers`: for builds that ask one."""

    def __init__(self, folder: Path, *, servers: bool = False) -> None:
        self.folder = folder
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, *(["servers"] if servers else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.read()

    def read(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the process that commands are forked from has died")
        return line

    def start(self, *arguments: str | Path, **settings: Any) -> Forked:
        """Start `magpie ...`. `env` is added to the environment, `file_size` limits the size of files."""
        assert self.process.stdin is not None
        files = self.folder / "out", self.folder / "err"
        order = {
            "arguments": [str(argument) for argument in arguments],
            "files": [str(file) for file in files],
        }
        self.process.stdin.write(json.dumps(order | settings) + "\n")
        self.process.stdin.flush()
        return Forked(int(self.read()), self, files)

    def magpie(self, *arguments: str | Path, **settings: Any) -> subprocess.CompletedProcess[str]:
        """Run `magpie ...` to its end."""
        return self.start(*arguments, **settings).wait()

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def _child(order: dict[str, Any]) -> None:
    for number, file in enumerate(order["files"], start=1):
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(handle, number)
        os.close(handle)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(order.get("env", {}))
    if "file_size" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_size"], order["file_size"]))
    if "count" in order:
        _count_requests(order["count"])
    sys.argv = ["magpie", *order["arguments"]]
    from magpie.__main__ import main

    main()


def _count_requests(file: str) -> None:
    """Add a byte to a file for each request that the scripted engine is given: so repeated work can be counted."""
    from magpie.engines.scripted import ScriptedEngine

    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    write = ScriptedEngine._write

    def counted(*arguments: Any) -> Any:
        os.write(handle, b".")
        return write(*arguments)

    ScriptedEngine._write = counted  # type: ignore[method-assign]


def serve() -> None:
    """Fork a command for each line of standard input."""
    import importlib

    for name in _LOADED_BEFORE + (_FOR_SERVERS if sys.argv[1:] else ()):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    said = os.fdopen(os.dup(1), "w", buffering=1)
    said.write("ready\n")
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                _child(json.loads(line))
            finally:
                os._exit(70)
        said.write(f"{pid}\n")
        _, status = os.waitpid(pid, 0)
        said.write(f"{os.waitstatus_to_exitcode(status)}\n")


if __name__ == "__main__":
    serve()
