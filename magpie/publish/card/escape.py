"""Text that a model or a file wrote, made harmless in Markdown and in the HTML that it becomes.

Everything that a template prints goes through `inline`, unless this module made it: see `Markdown`.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

from magpie.escaping import harmless

_WIDTH = 100
# An underscore between letters is only that.
_SPECIAL = re.compile(r"""[\\`*{}\[\]#!|<>&~$^@"]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])""")
# What renderers make links of without any sign: addresses by their scheme or by www, and line beginnings of lists.
_ADDRESS = re.compile(r"(?i)\b(https?|ftp|mailto|www)([:.])")
_LIST = re.compile(r"^(\s*)(-+|=+|\+|\d+[.)])(?=\s|$)")
_BACKTICKS = re.compile(r"`+")


class Markdown(str):
    """Markdown that was made here, and is printed as it is."""

    __slots__ = ()


def inline(value: Any) -> str:
    """`value` as one line of plain text: each sign that Markdown or HTML knows is written as its number."""
    if isinstance(value, Markdown):
        return value
    text = " ".join(harmless(str(value)).split())
    text = _SPECIAL.sub(lambda match: f"&#{ord(match.group())};", text)
    text = _ADDRESS.sub(lambda match: f"{match[1]}&#{ord(match[2])};", text)
    return _LIST.sub(lambda match: match[1] + "".join(f"&#{ord(each)};" for each in match[2]), text)


def code(value: Any) -> Markdown:
    """`value` as code within a line."""
    return Markdown(f"<code>{inline(value)}</code>")


def block(text: str, limit: int | None = None, language: str = "") -> Markdown:
    """`text` as a block of code, wrapped to lines of 100 characters, cut after `limit` of them.

    The fence is longer than any run of backticks in the text, so that nothing in it ends the block.
    """
    text = harmless(text)
    if limit is not None and len(text) > limit:
        text = f"{text[:limit].rstrip()} ... ({len(text) - limit:,} more characters)"
    lines = [
        part
        for line in text.expandtabs(4).split("\n")
        for part in (textwrap.wrap(line, _WIDTH, replace_whitespace=False) or [""])
    ]
    runs = (len(match.group()) for match in _BACKTICKS.finditer(text))
    fence = "`" * max(3, 1 + max(runs, default=0))
    return Markdown("\n".join([f"{fence}{language}", *lines, fence]))


def verbatim(text: str, language: str) -> Markdown:
    """A text of ours, such as a recipe, as a block that can be copied: its lines are left as they are."""
    runs = (len(match.group()) for match in _BACKTICKS.finditer(text))
    fence = "`" * max(3, 1 + max(runs, default=0))
    return Markdown(f"{fence}{language}\n{harmless(text).rstrip()}\n{fence}")
