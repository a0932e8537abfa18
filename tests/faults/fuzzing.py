"""What the fuzz tests share: the command run in this process, odd values, and how to spoil what was whole."""

from __future__ import annotations

import faulthandler
import functools
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import pytest
import typer.main
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

import magpie.cli as cli

SECONDS = 20
"""How long one input may take."""

ALLOWED = {0, 1, 2}

tried = {"inputs": 0}

# Typer reads the signatures of all verbs at every call, which is half of what an input takes.
_command = functools.cache(typer.main.get_command)


class Hung(BaseException):
    """An input took too long. No `except Exception` of the command catches it."""


class _Left(BaseException):
    """In place of the end of the process."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def fuzz(examples: int) -> Callable[..., Any]:
    """The settings of every fuzz test: the same inputs each time, and no clock."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def limited() -> Iterator[None]:
    """Count one input, and end it when it hangs; in C code, where no signal is looked at, with all of pytest."""

    def hung(*_: object) -> None:
        raise Hung(f"no end after {SECONDS} s")

    tried["inputs"] += 1
    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(6 * SECONDS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(arguments: Sequence[object], environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    """The command's exit code, output and errors: its `main`, with nothing left out but the end of the process."""

    def leave(code: int) -> None:
        raise _Left(code)

    streams: list[TextIO] = [
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)
    ]
    around, stops = dict(os.environ), [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.MonkeyPatch.context() as patch, limited():
        patch.setattr(sys, "argv", ["magpie", *map(str, arguments)])
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        patch.setattr(cli, "_leave", leave)
        patch.setattr(typer.main, "get_command", _command)
        os.environ.update(environment or {})
        code = -1
        try:
            cli.main()
        except _Left as left:
            code = left.code
        finally:
            os.environ.clear()
            os.environ.update(around)
            for number, handler in zip((signal.SIGINT, signal.SIGTERM), stops, strict=True):
                signal.signal(number, handler)
    out, err = (stream.buffer.getvalue().decode("utf-8", "replace") for stream in streams)  # type: ignore[attr-defined]
    return code, out, err


def ends_well(*arguments: object, environment: dict[str, str] | None = None, many_lines: bool = False) -> int:
    """Run the command: it ends well, or with one clear line (`many_lines`: with some). The exit code."""
    code, out, err = run(arguments, environment)
    lines = [line for line in err.splitlines() if line.strip()]
    about = f"magpie {' '.join(map(repr, map(str, arguments)))} {environment or ''}: {code}\n{err[-3000:]}"
    assert code in ALLOWED, about
    assert "Traceback" not in err and "internal error" not in err, about
    if code and not (code == 2 and "Usage" in out + err):
        assert lines and (many_lines or len(lines) == 1), about
        assert len(lines[-1]) > len("magpie: "), about
    return code


WORDS = st.sampled_from(
    [
        "",
        " ",
        "-",
        "--",
        "-1",
        "0",
        "1e999",
        "nan",
        "null",
        "~",
        "true",
        "{{",
        "{persona}",
        "%s",
        "../..",
        "/",
        "/dev/null",
        "\x1b]0;x\x07",
        "\u202egnp",
        "é" * 300,
        "a" * 5000,
        "'; DROP TABLE rows; --",
        "s3://",
        "http://[",
        "*",
        "&a",
        "\t\n",
        "😀",
        "[1, 2",
        "{a: 1}",
        "!!python/object:os.system x",
        "0x10",
        "١٢",
        "scripted",
        "generator",
        "auto",
        "demo",
        "\ufeff",
    ]
)
TEXTS = WORDS | st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
NUMBERS = (
    st.integers(-3, 3)
    | st.sampled_from([10**9, 2**31, 2**63, 2**64, 10**40, -(2**63) - 1, 10**400])
    | st.floats()
)
FLAT = st.none() | st.booleans() | NUMBERS | TEXTS


def _deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


VALUES = (
    FLAT
    | st.recursive(
        FLAT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=8,
    )
    | st.sampled_from([60, 150]).map(_deep)
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((*here, key), *places(inner, (*here, key)))]


def mutated(data: st.DataObject, value: Any) -> Any:
    """The same with some values exchanged, taken out or added. It is changed in place."""
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places(value) or [("x",)]))
        holder = value
        for key in way:
            holder = holder[key]
        what = data.draw(st.sampled_from(["exchange", "exchange", "exchange", "remove", "add"]))
        if what == "remove" and isinstance(holder, dict):
            holder.pop(last, None)
        elif what == "add" and isinstance(holder, dict):
            holder[data.draw(TEXTS)] = data.draw(VALUES)
        else:
            holder[last] = data.draw(VALUES)
    return value


def spoiled(data: st.DataObject, content: bytes) -> bytes:
    """The bytes with some flipped, cut off, doubled or put in."""
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(len(content) - 1, 0)))
        what = data.draw(st.sampled_from(["flip", "flip", "cut", "double", "insert", "empty", "zero"]))
        if what == "flip" and content:
            content = content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :]
        elif what == "cut":
            content = content[:at]
        elif what == "double":
            content = content[:at] + content[at : at + 50] * 2 + content[at + 50 :]
        elif what == "insert":
            content = content[:at] + data.draw(st.binary(max_size=8)) + content[at:]
        elif what == "zero":
            content = content[:at] + bytes(min(8, len(content) - at)) + content[at + 8 :]
        elif what == "empty":
            content = data.draw(
                st.sampled_from([b"", b"\x00", b"PAR1PAR1", b"\xff\xfe", b"{}", b"[]", b"null"])
            )
    return content
