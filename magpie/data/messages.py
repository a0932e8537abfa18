"""Conversations as messages, the form in which a dataset holds them, and the roles of other forms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from magpie.records.conversation import ROLES
from magpie.steps.base import MESSAGE, first_messages

MESSAGES = pa.list_(MESSAGE)

SHAREGPT_ROLES = {"user": "human", "assistant": "gpt", "system": "system"}
"""What ShareGPT calls the roles of messages."""

USER_ROLES = frozenset(name for name, role in ROLES.items() if role == "user")
ASSISTANT_ROLES = frozenset(name for name, role in ROLES.items() if role == "assistant")
"""The names of the two speakers in datasets, in lower case."""

SYSTEM = "response_system_prompt"
"""The column of a system prompt that is kept: see the step that writes responses."""

Message = dict[str, str]


def messages_of(rows: pa.Table, *, with_reasoning: bool) -> pa.Array:
    """The conversation of each row.

    In a run without responses it is the instruction and the chosen candidate, or the instruction alone.
    `with_reasoning` puts the model's reasoning before each answer, in the tags `<think>` and `</think>`. A system
    prompt that the recipe keeps comes first.
    """
    names = ("response", "later_turns", "reasoning", "later_reasoning", SYSTEM)
    if "response" not in rows.column_names:
        names = ("chosen_response", "later_turns", "chosen_reasoning", "later_reasoning", SYSTEM)
    nothing = [None] * rows.num_rows
    columns = (rows[name].to_pylist() if name in rows.column_names else nothing for name in names)
    conversations = []
    firsts = _first_messages(rows)
    for first, response, later, first_reasoning, later_reasoning, system in zip(
        firsts, *columns, strict=True
    ):
        messages = [user(first)]
        if response is not None:
            messages.append(assistant(response))
        messages += later or []
        if with_reasoning:
            messages = _with_reasoning(messages, [first_reasoning, *(later_reasoning or [])])
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        conversations.append(messages)
    return pa.array(conversations, type=MESSAGES)


def pairs_of(rows: pa.Table, *, with_reasoning: bool) -> dict[str, pa.Array]:
    """`prompt`, and `chosen` and `rejected`, which go on from it: a message each, as a list, as TRL takes pairs."""
    columns = {"prompt": pa.array([[user(text)] for text in _first_messages(rows)], type=MESSAGES)}
    for side in ("chosen", "rejected"):
        answers = [[assistant(text)] for text in rows[f"{side}_response"].to_pylist()]
        if with_reasoning:
            reasoning = rows[f"{side}_reasoning"].to_pylist()
            answers = [
                _with_reasoning(messages, [text]) for messages, text in zip(answers, reasoning, strict=True)
            ]
        columns[side] = pa.array(answers, type=MESSAGES)
    return columns


def _first_messages(rows: pa.Table) -> list[str]:
    """The user's first message in each row, with the document that it is about, where the run has documents."""
    return first_messages(rows, range(rows.num_rows))


def user(text: Any) -> Message:
    """A message of the user."""
    return {"role": "user", "content": text}


def assistant(text: Any) -> Message:
    """A message of the assistant."""
    return {"role": "assistant", "content": text}


def _with_reasoning(messages: list[Message], reasoning: Iterable[str | None]) -> list[Message]:
    """The messages, each answer after its reasoning. `reasoning` has an entry for each answer, null for none."""
    reasoning_of_answers = iter(reasoning)
    return [
        # `next` is called for answers only, so that the entries stay in step with them.
        assistant(f"<think>\n{text}\n</think>\n\n{message['content']}")
        if message["role"] == "assistant" and (text := next(reasoning_of_answers))
        else message
        for message in messages
    ]
