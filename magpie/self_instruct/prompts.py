"""What models are told, in the published numbering and order, in words of our own.

Every prompt is plain text that a model goes on with. In a chat format the request stands in the user's message, and the
text is the beginning of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from magpie.self_instruct.parsing import NO_INPUT
from magpie.self_instruct.tasks import Task

LIST = (
    "A numbered list of tasks for an assistant that reads and writes text. "
    "No two of them are alike in subject, form or wording.\n"
)
LIST_REQUEST = (
    "Write a numbered list of {count} tasks for an assistant that reads and writes text. "
    "No two of them may be alike in subject, form or wording, and each can be done with text alone."
)
KIND = (
    "A task is classification if its answer is one of a few labels that are known beforehand. "
    "Say of each task whether it is classification.\n\n"
)
KIND_REQUEST = "Is this task classification, that is, is its answer one of a few labels known beforehand?"
INPUT_FIRST = (
    "For each task there are examples: an input, and the right output for it. "
    f"Where the task needs no input, it is {NO_INPUT}.\n\n"
)
OUTPUT_FIRST = (
    "For each task there are examples: one of its labels as the output, and an input for which that label is right. "
    f"Where the task needs no input, it is {NO_INPUT}.\n\n"
)
INSTANCES_REQUEST = (
    "Write up to {count} different examples of the last task, in the form of the examples before it."
)


def one_line(instruction: str) -> str:
    """An instruction as it stands in a list: on one line, without a colon at its end."""
    return " ".join(instruction.split()).rstrip(":").rstrip()


def numbered_list(shown: Sequence[str]) -> str:
    """The tasks as a numbered list that ends in the number of the next."""
    lines = [f"{number}. {one_line(task)}\n" for number, task in enumerate(shown, start=1)]
    return f"{''.join(lines)}{len(shown) + 1}."


def kind_question(instruction: str) -> str:
    """The end of a prompt that asks whether a task is classification."""
    # A line of its own for the answer: a model held to JSON begins it with the quotation mark, and no space.
    return f"Task: {one_line(instruction)}\nIs it classification?\n"


def kind_page(shots: Sequence[Task], heading: str | None = None) -> str:
    """Answered questions of that kind, below a heading of one's own or the one above."""
    answers = {True: '"yes"', False: '"no"'}
    return (KIND if heading is None else f"{heading}\n\n") + "".join(
        f"{kind_question(task.instruction)}{answers[task.is_classification]}\n\n" for task in shots
    )


def instances_page(shots: Sequence[Task], *, output_first: bool, heading: str | None = None) -> str:
    """Tasks with their instances, in the order in which a model is to write them, below a heading."""
    pages = []
    for task in shots:
        examples = [
            f"Example {number}\n"
            + "\n".join(
                f"{label}: {text}"
                for label, text in _fields(one.input, one.output, output_first=output_first)
            )
            for number, one in enumerate(task.instances, start=1)
        ]
        pages.append(f"Task: {one_line(task.instruction)}\n" + "\n".join(examples) + "\n\n")
    usual = OUTPUT_FIRST if output_first else INPUT_FIRST
    return (usual if heading is None else f"{heading}\n\n") + "".join(pages)


def instances_question(instruction: str, *, output_first: bool) -> str:
    """The end of a prompt after which a model writes instances of a task."""
    return f"Task: {one_line(instruction)}\nExample 1\n{'Output' if output_first else 'Input'}:"


def _fields(input: str, output: str, *, output_first: bool) -> list[tuple[str, str]]:
    fields = [("Input", input or NO_INPUT), ("Output", output)]
    return fields[::-1] if output_first else fields
