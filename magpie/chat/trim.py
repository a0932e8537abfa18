"""What chat templates take off a message before they write it: the space around it, thoughts before an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from magpie.chat.reasoning import Reasoning

_WORD = "MagpieSaysQw"
_SPACED = (" \n {}", "{} \n ", "\n{}\n", " {} ", "\t {}\t", "\n \n{}\r\n", "{}")
_STRIPPED: tuple[str | None, ...] = ("", None, "\n", " ", " \n")
_CUTS: tuple[Literal["last", "first"], ...] = ("last", "first")
_AFTER_THOUGHTS = tuple(product(("", "\n", None), ("", None, "\n")))


@dataclass(frozen=True, slots=True)
class Trim:
    """What the messages of one role lose.

    `left` and `right` are the characters stripped there: none, or with None all white space. `end` is the mark that
    thoughts end with; what stands before its first or last place is dropped (`cut`), and then the characters `then`
    are stripped on the left and the right. With `begin` set, only messages that hold this mark as well lose anything.
    `tells_thoughts` says that this was seen to be so for answers with thoughts in them.
    """

    left: str | None = ""
    right: str | None = ""
    cut: Literal["", "first", "last"] = ""
    begin: str = ""
    end: str = ""
    then: tuple[str | None, str | None] = ("", "")
    tells_thoughts: bool = True

    @property
    def strips(self) -> bool:
        """Whether messages lose the space around them."""
        return (self.left, self.right) != ("", "")

    def __call__(self, text: str) -> str:
        """The message as the template writes it."""
        if self.cut and self.end in text and self.begin in text:
            text = text.partition(self.end)[2] if self.cut == "first" else text.rpartition(self.end)[2]
            text = text.lstrip(self.then[0]).rstrip(self.then[1])
        return text.lstrip(self.left).rstrip(self.right)


def find_trim(written: Callable[[str], str | None], reasoning: Reasoning | None) -> Trim | None:
    """What the messages that `written` writes lose; None when it is more than the space around them.

    `written` gives a message as the template writes it, None where it cannot be told apart from what is around it.
    """
    seen = [(text, written(text)) for text in (pad.format(_WORD) for pad in _SPACED)]
    sides = (Trim(left, right) for left, right in product(_STRIPPED, repeat=2))
    trim = next((trim for trim in sides if _explains(trim, seen)), None)
    if trim is None or reasoning is None:
        return trim
    thought = f"{reasoning.begin}\n{_WORD}One\n{reasoning.end}\n\n{_WORD}Two"
    tight = f"{reasoning.begin}{_WORD}One{reasoning.end}{_WORD}Two \n"
    loose = f"{reasoning.begin}\n\n{reasoning.end}\n \t{_WORD}Two\n \n"
    odd = (
        f"{_WORD}One{reasoning.end} \n {_WORD}Two",
        f"{thought}{reasoning.end}\n{_WORD}Three",
        reasoning.begin,
    )
    for texts in ((thought, tight, loose, *odd), (thought, tight, loose)):
        seen = [(text, written(text)) for text in texts]
        for cut in _cuts(trim, reasoning):
            if _explains(cut, seen):
                return cut
    return replace(trim, tells_thoughts=False)


def _explains(trim: Trim, seen: Iterable[tuple[str, str | None]]) -> bool:
    return all(trim(text) == found for text, found in seen)


def _cuts(trim: Trim, reasoning: Reasoning) -> Iterator[Trim]:
    yield trim
    for begin, cut, then in product(("", reasoning.begin), _CUTS, _AFTER_THOUGHTS):
        yield replace(trim, cut=cut, begin=begin, end=reasoning.end, then=then)
