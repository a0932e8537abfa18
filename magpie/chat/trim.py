"""What chat templates remove from a message: the white space around it, and the reasoning before an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from magpie.chat.reasoning import Reasoning

# The forms that messages are tried in, and the rules that are tried on them. Of several rules that fit, the first is
# taken: the one that removes least comes first.
_WORD = "MagpieSaysQw"
_SPACED = (" \n {}", "{} \n ", "\n{}\n", " {} ", "\t {}\t", "\n \n{}\r\n", "{}")
_STRIPPED: tuple[str | None, ...] = ("", None, "\n", " ", " \n")
_CUTS: tuple[Literal["last", "first"], ...] = ("last", "first")
_AFTER_REASONING = tuple(product(("", "\n", None), ("", None, "\n")))


@dataclass(frozen=True, slots=True)
class Trim:
    """What the messages of one role lose.

    `left` and `right` are the characters stripped on that side, None for all white space. With `cut`, what comes before
    the first or last `end`, the mark that ends the reasoning, is removed along with it, and then the characters `then`
    are stripped on the left and the right. With `begin` set, that is done only where a message holds this mark too.
    `tells_thoughts`: the rule was found to hold for answers with reasoning in them.
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
        """Whether messages lose white space around them."""
        return (self.left, self.right) != ("", "")

    def __call__(self, text: str) -> str:
        """The message as the template writes it."""
        if self.cut and self.end in text and self.begin in text:
            text = text.partition(self.end)[2] if self.cut == "first" else text.rpartition(self.end)[2]
            text = text.lstrip(self.then[0]).rstrip(self.then[1])
        return text.lstrip(self.left).rstrip(self.right)


def find_trim(render: Callable[[str], str | None], reasoning: Reasoning | None) -> Trim | None:
    """What messages lose in a template; None when not even the white space around them follows a known rule.

    `render` gives a message as the template writes it, None where it cannot be told apart from the text around it.
    """
    examples = [(text, render(text)) for text in (pad.format(_WORD) for pad in _SPACED)]
    sides = (Trim(left, right) for left, right in product(_STRIPPED, repeat=2))
    trim = next((trim for trim in sides if _explains(trim, examples)), None)
    if trim is None or reasoning is None:
        return trim
    # Answers with reasoning: as usual, without any space, with nothing in it and much space. Then the odd ones: without
    # a beginning, with two ends, with nothing but a beginning.
    usual = f"{reasoning.begin}\n{_WORD}One\n{reasoning.end}\n\n{_WORD}Two"
    tight = f"{reasoning.begin}{_WORD}One{reasoning.end}{_WORD}Two \n"
    loose = f"{reasoning.begin}\n\n{reasoning.end}\n \t{_WORD}Two\n \n"
    odd = (
        f"{_WORD}One{reasoning.end} \n {_WORD}Two",
        f"{usual}{reasoning.end}\n{_WORD}Three",
        reasoning.begin,
    )
    # The odd ones hardly occur: a rule that explains only the others will do where none explains all.
    for texts in ((usual, tight, loose, *odd), (usual, tight, loose)):
        examples = [(text, render(text)) for text in texts]
        for cut in _cuts(trim, reasoning):
            if _explains(cut, examples):
                return cut
    return replace(trim, tells_thoughts=False)


def _explains(trim: Trim, examples: Iterable[tuple[str, str | None]]) -> bool:
    return all(trim(text) == rendered for text, rendered in examples)


def _cuts(trim: Trim, reasoning: Reasoning) -> Iterator[Trim]:
    yield trim  # most templates leave reasoning where it is
    for begin, cut, then in product(("", reasoning.begin), _CUTS, _AFTER_REASONING):
        yield replace(trim, cut=cut, begin=begin, end=reasoning.end, then=then)
