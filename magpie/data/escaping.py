"""Text that a model wrote, made safe to print. It may be hostile: it must not control the terminal that shows it."""

from __future__ import annotations

import re

# C0 and C1 controls but newline and tab (ANSI sequences begin with one), line separators, and the marks that reorder
# the text around them.
_HOSTILE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


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


def _written_out(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
