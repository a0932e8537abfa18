"""Text that a model, a server or a file wrote, made safe to print: it must not control the terminal that shows it."""

from __future__ import annotations

import json
import re
from typing import Any

# C0 and C1 controls but newline and tab (ANSI sequences begin with one), line separators, all marks that set or change
# the direction of the text around them, notes between lines, and halves of surrogate pairs, which no stream takes.
_HOSTILE_CHARACTERS = (
    "\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u206f\\ufff9-\\ufffb\\ud800-\\udfff"
)
_HOSTILE = re.compile(f"[\\x00-\\x08\\x0b-\\x1f{_HOSTILE_CHARACTERS}]")
# JSON has escaped the C0 controls of its texts already; those left are its own line breaks.
_HOSTILE_IN_JSON = re.compile(f"[{_HOSTILE_CHARACTERS}]")


def harmless(text: str) -> str:
    """`text` with all characters that could act on a terminal escaped, as in `\\x1b[2J`."""
    return _HOSTILE.sub(_written_out, text.replace("\r\n", "\n"))


def one_line(text: str, limit: int = 200) -> str:
    """`text` on one line, its middle left out when it is longer than `limit` characters."""
    line = harmless(" ".join(text.split()))
    if len(line) <= limit:
        return line
    half = (limit - 3) // 2
    return f"{line[:half]} … {line[-half:]}"


def as_json(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """`value` as JSON that a terminal can show: what could act on it is written as `\\u009b`, which JSON reads back."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    return _HOSTILE_IN_JSON.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _written_out(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
