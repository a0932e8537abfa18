"""Chat templates, rendered where they can do no harm: in a process with little time and memory (`renderer.py`)."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from magpie.chat.renderer import CPU_SECONDS
from magpie.errors import ChatFormatError, ModelError

_ALWAYS_GIVEN = {"messages", "add_generation_prompt", "raise_exception", "strftime_now"}
_SCRIPT = Path(__file__).with_name("renderer.py")
# No keys and tokens: a template has no business with them.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables a chat template reads and does not set, the messages and the tokenizer's tokens left out.

    `needed` are those that it uses without first checking whether they are defined.
    """

    read: frozenset[str] = frozenset()
    needed: frozenset[str] = frozenset()


def read_variables(template: str, *, given: frozenset[str] = frozenset()) -> Variables:
    """The variables of a chat template; none for text that is not valid Jinja. `given` are names to leave out.

    Raises ChatFormatError for a template that cannot be read in reasonable time and memory.
    """
    found = _renderer.ask({"do": "variables", "template": template})
    read, needed = (frozenset(found[name]) - given - _ALWAYS_GIVEN for name in ("read", "needed"))
    return Variables(read, needed)


def render(template: str, variables: Mapping[str, Any], today: datetime) -> str:
    """The text that a chat template writes with these variables. Raises ChatFormatError with the template's reason."""
    request = {"do": "render", "template": template, "variables": variables, "today": today.isoformat()}
    return str(_renderer.ask(request)["text"])


def render_prompt(template: str, variables: Mapping[str, Any]) -> str:
    """The text of a prompt that somebody wrote as a template. Unlike in `render`, a variable must be given."""
    today = datetime.now().astimezone().isoformat()
    request = {"do": "render", "template": template, "variables": variables, "today": today, "strict": True}
    return str(_renderer.ask(request)["text"])


class _Renderer:
    """The process that renders, started when it is first needed, and again when a template has ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request. Raises ChatFormatError where there is none."""
        line = json.dumps(request, default=str).encode() + b"\n"
        with self._lock:
            answer = self._exchange(line)
            if answer is None:
                # Once more: the process may have been ended by something else than this template.
                code = self._end()
                if code not in (-signal.SIGPROF, -signal.SIGALRM):
                    answer = self._exchange(line)
                    code = self._end() if answer is None else 0
                if answer is None:
                    raise ChatFormatError(_how_it_ended(code))
        if "failure" in answer:
            raise ChatFormatError(answer["failure"])
        return answer

    def _exchange(self, line: bytes) -> dict[str, Any] | None:
        """Send a line and read the next one; None when the process ends over it."""
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            reply = process.stdout.readline()
        except (BrokenPipeError, ConnectionError):
            return None
        answer: dict[str, Any] | None = json.loads(reply) if reply.endswith(b"\n") else None
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._owner != os.getpid():
            self._process = None  # that of the process which this one was forked from
        if self._process is None:
            # Isolated: nothing in the current folder is imported. What jinja needs may lie outside this Python's own
            # packages, where only PYTHONPATH leads to it.
            folders = {str(Path(spec.origin).parents[1]) for spec in _needed() if spec.origin}
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", str(_SCRIPT), *sorted(folders)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                    start_new_session=True,  # Ctrl-C in the terminal ends the build, which ends this
                )
            except OSError as error:
                raise ModelError(
                    f"no process can be started to render chat templates ({error.strerror}); free some memory"
                ) from error
            self._owner = os.getpid()
        return self._process

    def _end(self) -> int:
        """End the process, if it has not ended; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            return process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def close(self) -> None:
        """End the process at the end of this one."""
        if self._owner == os.getpid():
            self._end()


def _needed() -> list[Any]:
    return [spec for name in ("jinja2", "markupsafe") if (spec := find_spec(name)) is not None]


def _how_it_ended(code: int) -> str:
    if code in (-signal.SIGPROF, -signal.SIGALRM):
        return f"it takes longer than {CPU_SECONDS:.0f} seconds"
    return f"it ends the process that renders it, with code {code}"


_renderer = _Renderer()
atexit.register(_renderer.close)
