"""What the scripted engine writes where a prompt is a page to go on with: a numbered list, or examples of a task.

Now and then it writes what a screen is there for, so that every reason is seen in tests.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

_LIST = re.compile(rb"(?:\A|\n)(\d{1,4})\.\Z")
_EXAMPLE = re.compile(rb"\nExample 1\n(Input|Output):\Z")
_LABELS = ("yes", "no", "good", "bad", "other")
_LOOKED_AT = 32  # the end of a prompt says what it is

Sentence = Callable[[], str]


def page_after(prompt: Sequence[int], draw: random.Random, sentence: Sentence) -> str | None:
    """What comes after the prompt; None where it is no such page."""
    end = bytes(token for token in prompt[-_LOOKED_AT:] if token < 256)
    if number := _LIST.search(end):
        return _tasks(int(number[1]), draw, sentence)
    if first := _EXAMPLE.search(end):
        return _examples(first[1] == b"Output", draw, sentence)
    return None


def until(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the texts that end it."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def _tasks(first: int, draw: random.Random, sentence: Sentence) -> str:
    count = draw.randint(2, 9)
    return "\n".join(
        f"{'' if number == first else number}{'' if number == first else '.'} {_task(draw, sentence)}"
        for number in range(first, first + count)
    )


def _task(draw: random.Random, sentence: Sentence) -> str:
    text = sentence()
    faults = (
        "Plan it",
        f"- {text}",
        f"Write a program. {text}",
        f"{text} Plot a map of it.",
        f"Überlege: {text}",
        "",
    )
    # The same few again and again: what a filter of near copies is for.
    repeated = f"Explain in your own words how to plan a garden for {draw.choice(('two', 'ten'))} people"
    return draw.choices((text, repeated, draw.choice(faults)), (7, 1, 2))[0]


def _examples(output_first: bool, draw: random.Random, sentence: Sentence) -> str:
    examples = []
    for number in range(1, draw.randint(1, 4) + 1):
        input = draw.choice((sentence(), sentence(), "(none)"))
        output = draw.choice(_LABELS) if output_first else sentence()
        input, output = draw.choices(
            ((input, output), (input, input), (input, ""), (f"{input}:", output)), (12, 1, 1, 1)
        )[0]
        fields = (
            [("Output", output), ("Input", input)] if output_first else [("Input", input), ("Output", output)]
        )
        (_, before), (label, after) = fields
        header = "" if number == 1 else f"\nExample {number}\n{fields[0][0]}:"
        examples.append(f"{header} {before}\n{label}: {after}")
    return "".join(examples) + "\n\nTask: "
