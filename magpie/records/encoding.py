"""Bytes of a person's file as text: UTF-8 with or without a byte-order mark, and UTF-16 and UTF-32."""

from __future__ import annotations

import codecs
import io
import json
from typing import IO

from magpie.errors import RecipeError

MARK = "\ufeff"

_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


def encoding_of(start: bytes) -> str:
    """The encoding of a file that begins with these bytes, by its mark, or by where its zero bytes stand."""
    # A text of any kind: its first two characters are nearly always ASCII, as those of JSON are.
    if start.startswith(_MARKS) or b"\0" in start[:4]:
        return json.detect_encoding(start)
    return "utf-8"


def decoded(data: bytes, origin: str) -> str:
    """The text, without a mark. `origin` is what an error calls it. Raises RecipeError, which names the line."""
    try:
        return data.decode(encoding_of(data[:4])).removeprefix(MARK)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{origin} is not UTF-8 text (line {line}); save it as UTF-8") from error


def text_stream(file: IO[bytes], start: bytes, *, newline: str | None = None) -> io.TextIOWrapper:
    """The text of a binary file that begins with `start`. Bytes that are no UTF-8 become lone surrogates.

    `unreadable` finds those: in this way it is known in which row they stand.
    """
    encoding = encoding_of(start)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    return io.TextIOWrapper(file, encoding=encoding, errors=errors, newline=newline)


def unreadable(text: str) -> bool:
    """Whether a text holds bytes that `text_stream` could not decode."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
