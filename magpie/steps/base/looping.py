"""Whether a model got stuck while it wrote a text."""

from __future__ import annotations

import re
from collections.abc import Iterable

from magpie.text import SENTENCE_ENDS, folded

_LETTER = re.compile(r"[^\W\d_]")
_SEED = 8  # characters of the piece of text whose next occurrence is looked for
_PIECE_END = re.compile(rf"[{re.escape(SENTENCE_ENDS)};；؛\n]+\s*")


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
    """Whether a unit repeated back to back makes the text a loop."""
    # A run longer than two seeds holds a seed that begins at a multiple of the seed's length. The distance to the
    # seed's next occurrence is the period. So there is one search for each seed, not one for each period and place.
    at, longest = 0, len(text) // 3  # a unit longer than a third cannot come three times
    while at + 2 * _SEED <= len(text):
        seed, step = text[at : at + _SEED], _SEED
        again = text.find(seed, at + 1, at + longest + _SEED)
        # The seed may occur inside the unit too: then the first occurrence is not a period, and the next are tried.
        # Four are enough for real texts and bound the work for hostile ones.
        for _ in range(4):
            if again < 0:
                break
            start, end = _run_around(text, at, again - at)
            if _is_loop(text, start, end, again - at):
                return True
            if end - start >= 3 * (again - at):
                step = max(step, end - at)  # a run that is no loop: go on behind it
            again = text.find(seed, again + 1, at + longest + _SEED)
        at += step
    return False


def _run_around(text: str, at: int, period: int) -> tuple[int, int]:
    """Where the text around `at` starts and stops to repeat itself every `period` characters."""
    unit = text[at : at + period]
    start, end = at, at + period
    # Unit by unit first, which runs in C. The loops over single characters then move less than one unit to the right,
    # and to the left no further than the seeds before this one left open.
    while text.startswith(unit, end):
        end += period
    while end < len(text) and text[end] == text[end - period]:
        end += 1
    while start and text[start - 1] == text[start - 1 + period]:
        start -= 1
    return start, end


def _is_loop(text: str, start: int, end: int, period: int) -> bool:
    """Whether text[start:end], which repeats itself every `period` characters, is over a bound of `is_looping`."""
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
    """Whether more than half of a text of six pieces (sentences or lines) or more was there before."""
    pieces = _PIECE_END.split(text)
    return len(pieces) >= 6 and 2 * _repeated(pieces) > sum(map(len, pieces))


def _repeated(pieces: Iterable[str]) -> int:
    """How many characters the pieces have that were there before."""
    seen: set[str] = set()
    repeated = 0
    for piece in pieces:
        key = folded(piece.strip())
        # Shorter pieces count as new: values in a table repeat, and lines with a closing bracket do.
        if len(key) >= 16 and key in seen:
            repeated += len(piece)
        seen.add(key)
    return repeated
