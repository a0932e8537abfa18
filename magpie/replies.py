"""Reading what a model or a server sent: text of unknown form, which may break off, be wrapped, or be no text at all.

Types are checked and never cast: a null is no text "None", and a number in quotation marks is no number.
"""

from __future__ import annotations

import ast
import json
import math
import re
from typing import Any

_NOT_TEXT = re.compile("[\ud800-\udfff\x00]")
"""Halves of surrogate pairs, which UTF-8 cannot hold, and NUL, which ends a text for many programs."""

_FENCE = re.compile(r"```[ \t]*[\w+-]*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_THOUGHT = re.compile(r"\A\s*<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_TRAILING_COMMA = re.compile(r",(\s*[}\]])")
# A backslash, and what it escapes in JSON; in Python alone; or nothing, as in LaTeX.
_BACKSLASH = re.compile(r"""\\(?:(["\\bfnrt]|u[0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(')|(/)|)""")
_LONGEST = 200_000
"""Characters of an answer that are searched for an object: no judge writes more."""

_MOST_STARTS = 50
"""Braces at which an object is looked for: each costs a reading of the rest."""


def valid_text(text: str) -> tuple[str, int]:
    """The text with U+FFFD for whatever is no character, and how many of these it got."""
    if text.isascii() and "\x00" not in text:
        return text, 0
    # A pair that came in two halves is one character: JSON writes it as two escapes.
    if any("\ud800" <= character <= "\udbff" for character in text):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return _NOT_TEXT.subn("\N{REPLACEMENT CHARACTER}", text)


def whole_number(value: object, *, most: int) -> int | None:
    """A count between 0 and `most`, None where the value is none: a text, a truth value, a fraction, infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
        return None
    return int(value) if 0 <= value <= most else None


def json_object(text: str) -> dict[str, Any] | None:
    """The first object in an answer that was to be JSON; None where there is none.

    It may stand in a code fence, behind thoughts or among other text, end its lists with a comma, and be spelled as
    Python spells it.
    """
    text = _THOUGHT.sub("", text[:_LONGEST])
    fenced = [match[1] for match in _FENCE.finditer(text)]
    for candidate in (*fenced, text):
        found = _first_object(candidate)
        if found is not None:
            return found
    return None


def described(value: object) -> str:
    """What a value is, for an error: its type in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else "an object"


def _first_object(text: str) -> dict[str, Any] | None:
    decoder = json.JSONDecoder(strict=False)  # a schema allows a tab or another control character in a text
    start = text.find("{")
    for _ in range(_MOST_STARTS):
        if start < 0:
            return None
        end = text.rfind("}") + 1
        if end <= start:
            return None
        try:
            found, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            found = _spelled_otherwise(text[start:end])
        if isinstance(found, dict) and found:
            return found
        start = text.find("{", start + 1)
    return None


def _spelled_otherwise(text: str) -> object:
    """The object in JSON with commas too many or backslashes too few, or in Python's spelling; None for all else."""
    text = _TRAILING_COMMA.sub(r"\1", text)
    try:
        return json.loads(_with_escapes(text, apostrophe="'"), strict=False)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(_with_escapes(text, apostrophe=r"\'"))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _with_escapes(text: str, *, apostrophe: str) -> str:
    """The text with escapes that JSON and Python read alike, and each backslash that begins none written as a pair."""

    def written(match: re.Match[str]) -> str:
        json_escape, code, quote, slash = match.groups()
        if json_escape:
            return match[0]
        if code:
            return rf"\u00{code}"
        return apostrophe if quote else slash or "\\\\"

    return _BACKSLASH.sub(written, text)
