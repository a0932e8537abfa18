"""The command `magpie`: arguments in, exit code out. Only here are all exceptions caught, and errors printed.

Exit codes: 0 done; 1 an error, printed in one line; 2 wrong arguments; 130 stopped by SIGINT or SIGTERM.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Annotated

import typer

from magpie import __version__
from magpie.cli.datasets import columns, export
from magpie.cli.lists import filters, new, recipe, recipes, schema, templates
from magpie.cli.models import doctor, tune
from magpie.cli.plan import plan
from magpie.cli.runs import build, filter_, show, status, verify
from magpie.errors import MagpieError, StoppedError
from magpie.secrets import RedactingFilter

app = typer.Typer(
    name="magpie",
    help="Name a chat model, get an instruction dataset you would train on.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INTERRUPTED = 130
VERBS = (
    plan, build, status, verify, filter_, export, columns, show, doctor, tune, new, recipe, templates, filters, recipes,
    schema,
)  # fmt: skip
for verb in VERBS:
    app.command(verb.__name__.rstrip("_"))(verb)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"magpie {__version__}")
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
    logging.basicConfig(
        level=os.environ.get("MAGPIE_LOG", "WARNING"), format="%(levelname)s %(name)s: %(message)s"
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(RedactingFilter())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = 0
    try:
        # Completion scripts call the command by this name, also when it was started as `python -m magpie`.
        app(standalone_mode=True, prog_name="magpie")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        if code == _INTERRUPTED:  # what typer makes of KeyboardInterrupt
            _print_error("stopped; nothing that was finished is lost: run the same command again", code)
    except StoppedError as error:
        code = _print_error(str(error), _INTERRUPTED)
    except MagpieError as error:
        code = _print_error(str(error), 1)
    except BrokenPipeError:
        code = 1
    except Exception as error:
        if os.environ.get("MAGPIE_DEBUG"):
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        code = _print_error(
            f"internal error: {what}; set MAGPIE_DEBUG=1 for the trace, and please report it", 1
        )
    _leave(code)


def _leave(code: int) -> None:
    """Exit without waiting for the threads of libraries: those of an engine may never end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 1
    logging.shutdown()
    os._exit(code)


def _print_error(text: str, code: int) -> int:
    """Print an error on one line; the exit code."""
    line = " ".join(text.split())
    typer.echo(f"magpie: {line}", err=True)
    return code
