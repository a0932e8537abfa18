"""The one way out to a person: everything printed passes here, is escaped, and never ends what is at work.

The command puts `guard` before everything else. From then on `sys.stdout` and `sys.stderr` escape all that could act on
a terminal, whoever writes: the command, the log, a warning, a library, a traceback. Only `new_console` may color and
move the cursor, and it escapes every text that it is given.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import IO, TYPE_CHECKING, Any, TextIO

from magpie.escaping import as_json, harmless

if TYPE_CHECKING:
    from rich.console import Console

_NARROWEST, _USUAL_WIDTH = 20, 80


class Guarded(io.TextIOBase):
    """A text stream that escapes what it is given, replaces what it cannot show, and never raises.

    `failure` is the first error of a write; after one, nothing more is written. `escapes` is false for the stream of a
    console, whose texts are escaped already and which writes control sequences of its own.
    """

    def __init__(self, stream: TextIO | None, descriptor: int, *, escapes: bool = True) -> None:
        self.stream, self.failure = (
            stream,
            None if stream is not None else OSError(errno.EBADF, "it is closed"),
        )
        self.was_used = False
        self._descriptor, self._escapes = descriptor, escapes
        self.for_console = self if not escapes else Guarded(stream, descriptor, escapes=False)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self.stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "replace"

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError("a text stream takes text")
        self.was_used = True
        if self.failure is None and self.stream is not None:
            shown = harmless(text) if self._escapes else text
            try:
                self.stream.write(shown)
            except UnicodeError:
                # A stream that was not made here, and so could not be told to replace what it cannot show.
                self._write_replaced(shown)
            except (OSError, ValueError) as error:  # ValueError: the stream was closed
                self._fail(error)
        return len(text)

    def _write_replaced(self, text: str) -> None:
        try:
            assert self.stream is not None
            self.stream.write(text.encode(self.encoding, "replace").decode(self.encoding, "replace"))
        except (OSError, ValueError, LookupError) as error:
            self._fail(error)

    def flush(self) -> None:
        if self.failure is None and self.stream is not None:
            try:
                self.stream.flush()
            except (OSError, ValueError) as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = error if isinstance(error, OSError) else OSError(errno.EBADF, "it is closed")

    def lost(self) -> OSError | None:
        """Why something that was printed cannot have arrived; None if all did, or if the reader only went away."""
        for stream in (self, self.for_console):
            error = stream.failure
            if error is not None and stream.was_used and error.errno != errno.EPIPE:
                return error
        return None

    def isatty(self) -> bool:
        try:
            return self.stream is not None and self.stream.isatty()
        except ValueError:
            return False

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """The stream below is the process's own, and stays open."""


def guard() -> None:
    """Make `sys.stdout` and `sys.stderr` safe to print to. A second call changes nothing."""
    if isinstance(sys.stdout, Guarded):
        return
    _open_standard_files()
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
        setattr(sys, name, Guarded(stream, descriptor))
    for name in ("COLUMNS", "LINES"):
        # Libraries read these, and some of them fail on what is no number, or draw tables of no width.
        value = os.environ.get(name, "")
        if value and not (value.isascii() and value.isdecimal() and int(value[:9]) >= _NARROWEST):
            del os.environ[name]


def _open_standard_files() -> None:
    # A file that is opened while a standard one is closed gets its number: a shard would then take what is printed.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)


def new_console(*, stderr: bool = False, file: IO[str] | None = None, **settings: Any) -> Console:
    """A console that prints texts as they are: `:smile:` and `[red]` mean nothing in them, and nothing acts.

    `settings` are those of rich's Console; `file` takes what would go to the terminal.
    """
    from rich.console import Console
    from rich.segment import Segment

    class SafeConsole(Console):
        """Escapes every text at the last moment, whatever it came in: a table, a title, a style's link."""

        def render(self, renderable: Any, options: Any = None) -> Any:
            for segment in super().render(renderable, options):
                if segment.control:
                    yield segment
                else:
                    style = segment.style
                    if style is not None and style.link:
                        style = style.update_link(None)
                    yield Segment(harmless(segment.text), style)

    stream = sys.stderr if stderr else sys.stdout
    file = file or getattr(stream, "for_console", stream)
    console = SafeConsole(file=file, stderr=stderr, emoji=False, markup=False, **settings)
    if console.width < _NARROWEST:
        console.width = _USUAL_WIDTH
    return console


def print_line(text: str, *, stderr: bool = False) -> None:
    """Print plain text, and make sure that it can be seen now."""
    stream = sys.stderr if stderr else sys.stdout
    stream.write(f"{text if isinstance(stream, Guarded) else harmless(text)}\n")
    stream.flush()


def can_ask() -> bool:
    """Whether a person is there to answer: both the input and the output are a terminal."""
    try:
        return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
    except ValueError:  # closed
        return False


def answered_yes(question: str) -> bool:
    """Ask a person; anything but yes is no."""
    stream = sys.stderr
    stream.write(f"{question if isinstance(stream, Guarded) else harmless(question)} [y/N] ")
    stream.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print JSON for a program: whole on any stream, and harmless on a terminal."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("_", "-")
    print_line(as_json(value, indent=indent, ascii_only=encoding not in {"utf-8", "utf8"}))
