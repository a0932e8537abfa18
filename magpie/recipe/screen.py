"""The section `screen` of `method: self-instruct`: which tasks are thrown out."""

from __future__ import annotations

from pydantic import Field

from magpie.recipe.base import Section, Text

UNSERVED_WORDS = (
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot",
    "go to",
)  # fmt: skip


class Screen(Section):
    """The published rules. Every task that breaks one is a rejected row, and the reason says which.

    Instances are screened too: those cut by length, without an output, with an output that is the input, or with a text
    that ends in a colon are out, and all of a task with two outputs for one input.
    """

    min_words: int = Field(default=4, ge=0)
    """The fewest words of a task."""
    max_words: int = Field(default=150, ge=1)
    """The most words of a task."""
    words: tuple[Text, ...] = UNSERVED_WORDS
    """A task with one of these words, in any case, is out: a model of text cannot serve it."""
    openings: tuple[Text, ...] = ("Write a program",)
    """A task that begins with one of these, in any case, is out: there would be too many."""
    punctuation: bool = True
    """A task that begins with a punctuation mark is out."""
    ascii_only: bool = True
    """A task that begins with a character outside ASCII is out. Switch it off for other languages."""
    rouge: float = Field(default=0.7, gt=0, le=1)
    """A task is out when its ROUGE-L F1 with a seed, or with a task accepted before it, is above this."""
