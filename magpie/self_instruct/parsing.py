"""What a model wrote after a numbered prompt, taken apart at the next expected number and nowhere else.

Whatever else looks like a number of the list, such as "3." in a task's own list, stays in the text it stands in. So no
task is invented, and none that the model set off as asked is lost.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NO_INPUT = "(none)"
"""What stands in the place of an input where a task needs none."""

_NOTHING = frozenset(
    {"", NO_INPUT, "none", "none.", "n/a", "<noinput>", "<no input>", "(no input)", "no input"}
)
_LABEL_LINE = re.compile(r"^[ \t]*(?:Input|Output|Task|Example \d+)[ \t]*:", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Numbered:
    """The texts of a list, as they were written, and what came from the number after the last on.

    The texts, each with its own number before it, and the rest put together are the whole text again.
    """

    texts: tuple[str, ...]
    rest: str


def split_numbered(text: str, first: int, last: int) -> Numbered:
    """Take apart what a model wrote behind the number `first`, up to the one of number `last` at most."""
    texts: list[str] = []
    for number in range(first + 1, last + 2):
        mark = _number(number).search(text)
        if mark is None:
            return Numbered((*texts, text), "")
        texts.append(text[: mark.start()])
        # The number after the last is where the model was to be stopped.
        if number == last + 1:
            return Numbered(tuple(texts), text[mark.start() :])
        text = text[mark.end() :]
    return Numbered((*texts, text), "")


def _number(number: int) -> re.Pattern[str]:
    # At the beginning of a line, and before a space: "10.5 litres" begins no task.
    return re.compile(rf"\n[ \t]*{number}[ \t]?[.)](?=\s|\Z)")


@dataclass(frozen=True, slots=True)
class Draft:
    """An instance as a model wrote it. `problem` says why it is none; null where it is whole."""

    input: str
    output: str
    problem: str | None = None


CUT = "cut by length"
UNFINISHED = "no output"
LABEL_INSIDE = "a label inside"


def parse_instances(text: str, *, output_first: bool, most: int, is_cut: bool) -> list[Draft]:
    """The instances that a model wrote behind "Example 1" and its first label, `most` of them at most.

    An instance that the model did not finish is there with its problem. Where the completion was cut by length, that
    is the last one; those before it are whole.
    """
    first, second = ("Output", "Input") if output_first else ("Input", "Output")
    parts = []
    for number in range(2, most + 2):
        # The header of the next, or what there is of it where the text ends in it.
        begun = "|".join(first[:length] for length in range(len(first) + 1))
        header = rf"\n\s*Example {number}[ \t]*[:.]?[ \t]*(?:\n\s*{first}[ \t]*:|\s*(?:{begun})\Z)"
        mark = re.search(header, text)
        if mark is None:
            break
        parts.append(text[: mark.start()])
        text = text[mark.end() :]
    else:
        text = ""  # the number after the last is where the model was to be stopped
    # What stands behind a header that is the end of the text is nothing at all.
    if len(parts) < most and (text.strip() or not parts):
        parts.append(text)
        open_end = is_cut
    else:
        open_end = False
    drafts = [_draft(part, second, output_first=output_first) for part in parts]
    if open_end:
        drafts[-1] = Draft(drafts[-1].input, drafts[-1].output, CUT)
    return drafts if any(draft.input or draft.output for draft in drafts) else []


def _draft(part: str, second: str, *, output_first: bool) -> Draft:
    """One instance, from what stands behind its first label."""
    mark = re.search(rf"(?:\A|\n)[ \t]*{second}[ \t]*:", part)
    before, after = (part, None) if mark is None else (part[: mark.start()], part[mark.end() :])
    before = before.strip()
    behind = None if after is None else after.strip()
    input, output = (behind or "", before) if output_first else (before, behind or "")
    if input.lower() in _NOTHING:
        input = ""
    # A label alone is an instance: its task needs no input. The original's code takes it for one, too.
    if behind is None and not output_first:
        return Draft(input, output, UNFINISHED)
    if _LABEL_LINE.search(before) or _LABEL_LINE.search(behind or ""):
        return Draft(input, output, LABEL_INSIDE)
    return Draft(input, output)
