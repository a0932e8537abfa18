"""The command `magpie`: arguments in, exit code out. Only here are all exceptions caught, and errors printed.

Exit codes: 0 done; 1 an error, printed in one line; 2 wrong arguments; 3 paused at a gate; 130 stopped by a signal.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from typing import Annotated, Any

import typer

from magpie import __version__
from magpie.cli.compare import compare
from magpie.cli.datasets import columns, export, import_, merge, split
from magpie.cli.environment import of_the_machine, prepare
from magpie.cli.lists import filters, new, recipe, recipes, schema, templates
from magpie.cli.models import doctor, tune
from magpie.cli.plan import plan
from magpie.cli.publish import card, push
from magpie.cli.report import report
from magpie.cli.rouge import rouge
from magpie.cli.runs import build, filter_, runs_, show, status, verify
from magpie.cli.serve import serve
from magpie.cli.view import view
from magpie.errors import MagpieError, PausedError, StoppedError
from magpie.machine import STOPS
from magpie.secrets import redacted
from magpie.terminal import Guarded, guard, print_line

app = typer.Typer(
    name="magpie",
    help="Name a chat model, get an instruction dataset you would train on.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

WRONG_ARGUMENTS, PAUSED, INTERRUPTED = 2, 3, 130

VERBS = (
    plan, build, status, runs_, verify, filter_, import_, merge, split, export, card, push, columns, compare, show,
    report, view, doctor, tune, rouge, serve, new, recipe, templates, filters, recipes, schema,
)  # fmt: skip
for verb in VERBS:
    app.command(verb.__name__.rstrip("_"))(verb)
# What these print is news about files: the files are whole, whatever became of what was said about them.
_NEWS_OF_FILES = (build, filter_, import_, merge, split, export, card, push, report)
_LEAVE_FILES = {verb.__name__.rstrip("_") for verb in _NEWS_OF_FILES}


def _print_version(wanted: bool) -> None:
    if wanted:
        print_line(f"magpie {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Name a chat model, get an instruction dataset you would train on."""


def main() -> None:
    """Run the command. An error becomes one line on standard error, and an exit code."""
    guard()
    code = 0
    try:
        code = _run()
    except KeyboardInterrupt:
        code = _print_stopped()
    _leave(code)


def _run() -> int:
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` and shells set it
            signal.signal(number, signal.default_int_handler)
    try:
        prepare()
        # Completion scripts call the command by this name, also when it was started as `python -m magpie`.
        code = app(standalone_mode=False, prog_name="magpie")
    except MagpieError as error:
        codes: dict[type[MagpieError], int] = {StoppedError: INTERRUPTED, PausedError: PAUSED}
        return _print_error(str(error), codes.get(type(error), 1))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except Exception as error:
        if hasattr(error, "format_message"):  # typer brings its own click, or uses the one that is installed
            return _print_wrong_arguments(error)
        if os.environ.get("MAGPIE_DEBUG"):
            print_line(redacted(traceback.format_exc().rstrip()), stderr=True)
        return _print_error(of_the_machine(error) or _internal(error), 1)
    if code == INTERRUPTED:  # what typer makes of KeyboardInterrupt
        return _print_stopped()
    return code if isinstance(code, int) else 0


def _internal(error: Exception) -> str:
    what = f"{type(error).__name__}: {error}"
    return f"internal error: {what}; set MAGPIE_DEBUG=1 for the trace, and please report it"


def _print_wrong_arguments(error: Any) -> int:
    message = " ".join(error.format_message().split()).rstrip(".?")
    verb = getattr(error.ctx, "command_path", "magpie")
    if not message or type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # it is the help
        return WRONG_ARGUMENTS
    return _print_error(f"{message[:1].lower()}{message[1:]}; see `{verb} --help`", WRONG_ARGUMENTS)


def _print_stopped() -> int:
    return _print_error("stopped; nothing that was finished is lost: run the same command again", INTERRUPTED)


def _leave(code: int) -> None:
    """Exit without waiting for the threads of libraries: those of an engine may never end."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)  # it is ending already
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    lost = sys.stdout.lost() if isinstance(sys.stdout, Guarded) else None
    if lost is not None and code != INTERRUPTED:
        code = code if sys.argv[1:2] and sys.argv[1] in _LEAVE_FILES else code or 1
        _print_error(
            f"standard output could not be written to ({lost.strerror}); what was printed there is not whole: "
            "give it another place",
            code,
        )
    logging.shutdown()
    os._exit(code)


def _print_error(text: str, code: int) -> int:
    """Print an error on one line; the exit code."""
    print_line(f"magpie: {redacted(' '.join(text.split()))}", stderr=True)
    return code
