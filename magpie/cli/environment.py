"""What the command finds around it: the log's level, limits on files and memory, arguments that are no text."""

from __future__ import annotations

import errno
import logging
import os
import sys
from pathlib import Path

from magpie import machine
from magpie.errors import MagpieError, RecipeError
from magpie.secrets import start_log

_LEVELS = ("debug", "info", "warning", "error", "critical")
# What a process maps, not what it uses: Arrow, DuckDB and PyTorch with a stack for each of their threads.
_LEAST_ADDRESS_SPACE = 3 << 30
_FILES = 4096

_HINTS = {
    errno.EMFILE: "`ulimit -n` allows too few open files: raise it",
    errno.ENFILE: "the system has too many files open: close some programs",
    errno.ENOMEM: "memory is short: give it more, or see `ulimit -v`",
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "your quota of the disk is used up: make room",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.EACCES: "you have no right to it: check its owner and mode",
    errno.EPERM: "you have no right to it: check its owner and mode",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.ELOOP: "symbolic links go in a circle: mend them",
    errno.EIO: "the disk reports an error: check it",
    errno.ESTALE: "the network file system lost it: try again",
}
_LESS = "give it more, or ask for less: a smaller model, fewer slots, fewer rows a shard"


def prepare() -> None:
    """Set up the log and raise the limit on open files. Raises a MagpieError where nothing could go well."""
    level = os.environ.get("MAGPIE_LOG", "").strip() or "warning"
    if level.lower() not in _LEVELS:
        raise RecipeError(f"MAGPIE_LOG={level!r} is not a level; use one of: {', '.join(_LEVELS)}")
    start_log(level.upper())
    logging.raiseExceptions = False  # a line of the log that cannot be written ends nothing
    for argument in sys.argv[1:]:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise RecipeError(f"the argument {argument!r} is not UTF-8 text; rename the file") from None
    machine.raise_open_files(_FILES)
    machine.limit_threads()
    if any(option in sys.argv for option in ("--help", "-h", "--version")):
        return
    try:
        Path.cwd()
    except OSError as error:
        raise MagpieError(
            f"the working directory cannot be used ({error.strerror}); change to another one"
        ) from error
    limit = machine.address_space()
    if limit is not None and limit < _LEAST_ADDRESS_SPACE:
        raise MagpieError(
            f"this shell allows {limit / 1e9:.1f} GB of address space (`ulimit -v`) and magpie needs "
            f"{_LEAST_ADDRESS_SPACE / 1e9:.1f} GB for its libraries alone; raise the limit"
        )


def of_the_machine(error: BaseException) -> str | None:
    """One line about an error that the machine made, such as a full disk; None when it is another kind of error."""
    return next(filter(None, map(_explained, _causes(error))), None)


def _explained(error: BaseException) -> str | None:
    text = " ".join(str(error).split())
    for kind, words, line in (
        (MemoryError, "", f"out of memory{_allowed()}; {_LESS}"),
        (Exception, "bad_alloc", f"out of memory{_allowed()}; {_LESS}"),
        (Exception, "Cannot allocate memory", f"out of memory{_allowed()}; {_LESS}"),
        (
            RuntimeError,
            "can't start new thread",
            f"no more threads{_allowed()}; raise `ulimit -v` and `ulimit -u`",
        ),
        (
            OverflowError,
            "date value",
            "a time in the data lies outside the years 1 to 9999; mend it, or leave out its column",
        ),
        (RecursionError, "", "something is nested too deeply to be read; write it flatter"),
        (RuntimeError, "home directory", "no home directory is known; set HOME, or MAGPIE_CACHE and HF_HOME"),
        (
            OSError,
            "temporary directory",
            "no folder for temporary files can be written; set TMPDIR to one that can",
        ),
        (ImportError, "", f"a library cannot be loaded ({text}); install magpie again, or see `ulimit -a`"),
    ):
        if isinstance(error, kind) and words in text:
            return line
    if isinstance(error, OSError) and error.errno in _HINTS:
        about = f"{error.filename}: " if error.filename else ""
        return f"{about}{error.strerror or text}; {_HINTS[error.errno]}"
    return None


def _causes(error: BaseException | None) -> list[BaseException]:
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def _allowed() -> str:
    limit = machine.memory_limit()
    return f" ({limit / 1e9:.1f} GB are allowed to this process)"
