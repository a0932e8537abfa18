"""The one way out: what is printed is escaped, never raises, and no module prints by another way."""

from __future__ import annotations

import ast
import errno
import io
import json
import re
from pathlib import Path

import pytest
from rich.table import Table

from magpie.escaping import as_json
from magpie.terminal import Guarded, new_console

PACKAGE = Path(__file__).parent.parent / "magpie"
HOSTILE = (
    "\x1b]52;c;ZXZpbA==\x07", "\x1b[2J", "\x9b2J", "\u202eevil", "\u2066x", "\u200f", "\u061c", "\r", "\x08", "\ud83d",
)  # fmt: skip
ACTING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]")


@pytest.mark.parametrize("text", HOSTILE)
def test_what_acts_on_a_terminal_is_written_out(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr("sys.stdout", Guarded(said, 1))
    print(f"before {text} after")
    table = Table(title=text, caption=text)
    table.add_column(text)
    table.add_row(text)
    console = new_console()
    console.print(table)
    console.print(f"a line with {text}", style="link http://127.0.0.1")
    assert not ACTING.search(said.getvalue()), said.getvalue()
    assert "after" in said.getvalue()


def test_json_stays_json_and_says_the_same() -> None:
    value = {text: [text] for text in HOSTILE}
    assert not ACTING.search(as_json(value))
    assert json.loads(as_json(value)) == value


class _Broken(io.StringIO):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, _: str) -> int:
        raise OSError(self.number, "broken")


@pytest.mark.parametrize(("number", "is_lost"), [(errno.EPIPE, False), (errno.ENOSPC, True)])
def test_a_stream_that_cannot_be_written_to_ends_nothing(number: int, is_lost: bool) -> None:
    stream = Guarded(_Broken(number), 1)
    for _ in range(3):
        print("text", file=stream, flush=True)
    assert (stream.lost() is not None) == is_lost


def test_a_closed_stream_matters_only_if_it_was_used() -> None:
    stream = Guarded(None, 1)
    assert stream.lost() is None
    print("text", file=stream)
    assert stream.lost() is not None


def test_what_a_stream_cannot_show_is_replaced() -> None:
    below = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print("a … b", file=Guarded(below, 1))
    below.flush()
    assert below.buffer.getvalue() == b"a ? b\n"  # type: ignore[attr-defined]


def test_no_module_writes_to_the_terminal_by_another_way() -> None:
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in {
                    "print",
                    "typer.echo",
                    "typer.secho",
                    "click.echo",
                    "Console",
                    "sys.stdout.write",
                    "sys.stderr.write",
                }:
                    faults.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {called}()")
    assert not faults, "\n".join(faults)
