"""Texts of any script, in the one form in which they are compared.

One text may be written in several ways: with full-width letters, with accents as characters of their own, in capitals.
Whatever compares texts or words (repeats, words shared with an evaluation set, names of roles, a judge's labels)
compares these forms. For texts in ASCII, `normal` changes nothing and `folded` is lower case.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

COLONS = ":：︰﹕︓∶꞉˸፥፦᠄"
"""What ends a label, or announces what follows it, in any script. The Armenian `։` is none: it ends a sentence."""

SENTENCE_ENDS = ".!?。！？｡．…؟۔।॥։՜՞።፧፨།༎။៕᠃"
"""What ends a sentence, in any script."""

# NFKC writes a raised digit as a plain one: 10² would be 102.
_RAISED = re.compile("[⁰¹²³⁴-⁹]+")
# Characters that no reader sees and that Unicode leaves out of comparisons: joiners, marks of direction, soft hyphens,
# variation selectors, the byte-order mark.
_UNSEEN = re.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\u3164\ufe00-\ufe0f\ufeff\uffa0]"
)
# Turkish has an i with and one without a dot; lower case, for a capital, gives neither of them as people type it.
_DOTTED_I = str.maketrans({"ı": "i", "\u0307": None})

# Chinese and Japanese are written without spaces: each of their characters counts as a word. Kana first, then Han.
_UNSPACED = (
    r"\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    r"\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)


def normal(text: str) -> str:
    """The text in the form in which texts are the same: Unicode's NFKC, with raised digits told from plain ones."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", _RAISED.sub(_with_caret, text))


def folded(text: str) -> str:
    """The text without regard to case, and to what no reader sees: the form in which words are the same."""
    if text.isascii():
        return text.lower()
    lower = _UNSEEN.sub("", normal(text)).casefold()
    # Folding may take apart what NFKC has put together.
    return unicodedata.normalize("NFKC", lower.translate(_DOTTED_I))


def words(text: str) -> list[str]:
    """The words of a text, folded and without punctuation. A Chinese or Japanese character is a word by itself."""
    found: list[str] = _word_pattern().findall(folded(text))
    return found


def printable(text: str) -> str:
    """The text on one line, with all that could act on a terminal written out, as in `\\x1b[2J`."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _with_caret(match: re.Match[str]) -> str:
    return f"^{unicodedata.normalize('NFKC', match[0])}"


@cache
def _word_pattern() -> re.Pattern[str]:
    # Not `re`: to that, the vowels of Hindi and of Thai, which are marks, are no part of a word.
    import regex

    pattern: re.Pattern[str] = regex.compile(
        rf"[{_UNSPACED}]\p{{M}}*|(?:(?![{_UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}_])+"
    )
    return pattern


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: "1 shard", "2,000 shards". `plural` is for nouns that do not just take an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def sized(count: float) -> str:
    """So many bytes, in words: "64 kB", "1.5 TB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
