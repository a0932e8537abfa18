"""The forms in which a task, its input and its output are put together for training.

The paper trains on several, so that a model learns the task and not one way to write it. Which one a row gets, a seed
and the row's id decide.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from magpie.self_instruct.tasks import Instance


def message(task: str, input: str) -> str:
    """The user's message for a task: the task, and below it its input, where it has one."""
    return f"{task}\n\n{input}" if input else task


def conversation(task: str, instances: Sequence[Instance]) -> dict[str, Any]:
    """The columns of a task with its instances: the first of these makes the conversation, if there is any."""
    first = instances[0] if instances else None
    return {
        "task": task,
        "task_input": None if first is None else first.input,
        "instances": [asdict(one) for one in instances],
        "instruction": task if first is None else message(task, first.input),
        "response": None if first is None else first.output,
        "response_length": None if first is None else len(first.output),
    }


@dataclass(frozen=True, slots=True)
class Form:
    """What stands around a task and its input, and between that and the output where both are one text."""

    pattern: str
    between: str

    def prompt(self, task: str, input: str) -> str:
        """The task and its input in this form."""
        # Not `format`: a task may hold braces, and so may an input.
        before, _, after = self.pattern.partition("{task}")
        head, mark, tail = after.partition("{input}")
        return f"{before}{task}{head}{input}{tail}" if mark else f"{before}{task}{after}"


PLAIN = Form("{task}\n\n{input}", "\n\n"), Form("{task}", "\n\n")
"""The form of messages, with an input and without."""

WITH_INPUT = (
    PLAIN[0],
    Form("{task}\n{input}", "\n"),
    Form("{task}\n\nInput: {input}", "\n\n"),
    Form("{task}\n\nInput: {input}\n\nOutput:", " "),
    Form("{task}\nInput: {input}\nOutput:", " "),
    Form("Task: {task}\n\n{input}", "\n\n"),
    Form("Task: {task}\nInput: {input}\nOutput:", " "),
    Form("Task: {task}\n\nInput:\n{input}\n\nOutput:", "\n"),
)
WITHOUT_INPUT = (
    PLAIN[1],
    Form("{task}", "\n"),
    Form("{task}\n\nOutput:", " "),
    Form("{task}\nOutput:", "\n"),
    Form("Task: {task}", "\n\n"),
    Form("Task: {task}\nOutput:", " "),
    Form("Task: {task}\n\nOutput:", "\n"),
)


def drawn_form(seed: int | None, row: str, *, has_input: bool) -> Form:
    """The form of a row; without a seed, that of messages."""
    if seed is None:
        return PLAIN[0] if has_input else PLAIN[1]
    return random.Random(f"{seed}/{row}").choice(WITH_INPUT if has_input else WITHOUT_INPUT)
