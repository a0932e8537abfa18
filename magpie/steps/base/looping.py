"""Whether a model got stuck while it wrote a text."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LETTER = re.compile(r"[^\W\d_]")
_SEED = 8
_PIECE_END = re.compile(r"[.!?;。！？；\n]+\s*")


def is_looping(text: str) -> bool:
    """Whether a model got stuck while it wrote `text`: one unit again and again, or the same sentences coming back.

    A unit of any length that is repeated back to back is a loop when it makes up
    - more than four fifths of the text, 3 times or more, in 48 characters or more;
    - more than half of the text, 4 times or more, in 48 characters or more, if it holds no line break: code, lists
      and songs do repeat their lines;
    - any part of the text, 4 times or more, in 400 characters or more;
    and when it holds no letter (rules, blanks, tables of zeros), only if it is more than half of the text and 256
    characters or more. A refrain sung twice, a ruled table and a list are far from each of these bounds.
    """
    return _has_run(text) or _comes_back(text)


def _has_run(text: str) -> bool:
    """Whether a unit repeated back to back makes the text a loop.

    A run longer than two seeds holds a seed at a multiple of the seed's length, and the seed's next occurrence gives
    the period: one search for each seed instead of one for each period and place.
    """
    at, longest = 0, len(text) // 3
    while at + 2 * _SEED <= len(text):
        seed, step = text[at : at + _SEED], _SEED
        again = text.find(seed, at + 1, at + longest + _SEED)
        for _ in range(4):
            if again < 0:
                break
            start, end = _run_around(text, at, again - at)
            if _is_loop(text, start, end, again - at):
                return True
            if end - start >= 3 * (again - at):
                step = max(step, end - at)
            again = text.find(seed, again + 1, at + longest + _SEED)
        at += step
    return False


def _run_around(text: str, at: int, period: int) -> tuple[int, int]:
    """Where the text around `at` starts and stops to repeat itself every `period` characters."""
    unit = text[at : at + period]
    start, end = at, at + period
    while text.startswith(unit, end):
        end += period
    while end < len(text) and text[end] == text[end - period]:
        end += 1
    while start and text[start - 1] == text[start - 1 + period]:
        start -= 1
    return start, end


def _is_loop(text: str, start: int, end: int, period: int) -> bool:
    length, unit = end - start, text[start : start + period]
    if length < 48 or length < 3 * period:
        return False
    share = length / len(text)
    if not _LETTER.search(unit):
        return share > 0.5 and length >= 256
    if length < 4 * period:
        return share > 0.8
    return share > 0.8 or length >= 400 or (share > 0.5 and "\n" not in unit)


def _comes_back(text: str) -> bool:
    """Whether more than half of a text of six pieces (sentences or lines) or more was there before.

    Pieces under 16 characters count as new: answers in a table of data repeat, and closing brackets do.
    """
    pieces = _PIECE_END.split(text)
    return len(pieces) >= 6 and 2 * _repeated(pieces) > sum(map(len, pieces))


def _repeated(pieces: Iterable[str]) -> int:
    seen: set[str] = set()
    repeated = 0
    for piece in pieces:
        known = piece.strip().casefold()
        if len(known) >= 16 and known in seen:
            repeated += len(piece)
        seen.add(known)
    return repeated
