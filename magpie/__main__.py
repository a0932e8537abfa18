"""`python -m magpie`, which is the command `magpie`.

Nothing heavy is imported before `main` has seen to signals and streams: a person may press Ctrl-C at once.
"""

from __future__ import annotations

import contextlib
import os
import signal

from magpie.machine import STOPS


def main() -> None:
    """Run the command, from its first moment in a way that can be stopped."""
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stopped_at_the_start)
    try:
        from magpie.cli import main as run
    except (MemoryError, ImportError, OSError, RuntimeError) as error:
        # Too little memory or too few open files; or an installation that is not whole.
        what = " ".join(f"{type(error).__name__}: {error}".split()).encode("ascii", "backslashreplace")
        _last_words(
            b"magpie could not start: %s; see the limits of `ulimit -a`, or install magpie again" % what
        )
        os._exit(1)
    run()


def _stopped_at_the_start(*_: object) -> None:
    _last_words(b"magpie: stopped; nothing was begun: run the same command again")
    os._exit(130)


def _last_words(line: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody may be listening
        os.write(2, line + b"\n")


if __name__ == "__main__":
    main()
