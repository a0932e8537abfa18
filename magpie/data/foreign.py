"""A row that was made elsewhere as a conversation in messages, or the reason why it is none.

Forms are told by their columns: `messages` and `conversations` (OpenAI, ShareGPT and the published Magpie sets), an
instruction and its answer with Alpaca's `input`, `history` and `system`, and pairs of preference in the forms of TRL,
LLaMA-Factory and OpenAI. Nothing of a row is dropped to make it fit: a row with an image, a tool call or two messages
of one speaker in a row is left out as a whole, with that as its reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from magpie.data.messages import Message, assistant, user
from magpie.records.conversation import CONTENTS, CONVERSATIONS, SPEAKERS, turns_of

INSTRUCTIONS = ("instruction", "prompt", "question", "query", "problem", "input")
RESPONSES = ("response", "output", "completion", "answer")
"""Where a question and its answer are looked for as texts, in this order."""

CHOSEN = ("chosen", "preferred_output")
REJECTED = ("rejected", "non_preferred_output")
"""What the two answers of a pair are called."""

_TOOLS = ("tool_calls", "function_call", "tool_call_id")


class UnfitError(ValueError):
    """The row is no conversation as messages hold it; the text says why."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said. Of a pair `messages` are the prompt and the chosen answer, and the other two its answers."""

    messages: list[Message]
    chosen: list[Message] | None = None
    rejected: list[Message] | None = None

    @property
    def prompt(self) -> list[Message] | None:
        """What both answers of a pair go on from."""
        return None if self.chosen is None else self.messages[: len(self.messages) - len(self.chosen)]


def conversation_of(row: Mapping[str, Any]) -> Conversation:
    """The conversation of a row, whose columns are in lower case. Raises UnfitError."""
    talk = _talk(row)
    messages = _with_system(_texts(row) if talk is None else talk, row)
    _check(messages)
    return Conversation(messages)


def pair_of(row: Mapping[str, Any]) -> Conversation:
    """The pair of a row of preferences. Raises UnfitError."""
    chosen, rejected = _answer(row, CHOSEN), _answer(row, REJECTED)
    prompt = _prompt(row)
    if prompt is None:
        # TRL's form without a prompt: both are whole conversations, which part at some point.
        prompt = _common(chosen, rejected)
    elif prompt[-len(chosen) :] == chosen and len(prompt) > len(chosen):
        prompt = prompt[: -len(chosen)]
    chosen, rejected = _after(prompt, chosen), _after(prompt, rejected)
    prompt = _with_system(prompt, row)
    for answer in (chosen, rejected):
        if not answer:
            raise UnfitError("no two answers")
        _check([*prompt, *answer])
    if prompt[-1]["role"] != "user":
        raise UnfitError("a prompt that does not end with the user")
    return Conversation([*prompt, *chosen], chosen, rejected)


def _talk(row: Mapping[str, Any]) -> list[Message] | None:
    """The messages of the first column that holds a conversation; None where none does."""
    for name in CONVERSATIONS:
        value = row.get(name)
        if value is None or isinstance(value, int | float):  # such as how many turns there are
            continue
        messages = _messages(value)
        if messages is not None:
            return messages
    return None


def _texts(row: Mapping[str, Any]) -> list[Message]:
    """The messages of a row that has a question and an answer, and perhaps earlier ones, in columns of their own."""
    name = next((name for name in INSTRUCTIONS if _text(row.get(name))), None)
    if name is None:
        if _text(row.get("text")):
            raise UnfitError("text alone, which does not say who speaks")
        raise UnfitError("no conversation that can be read")
    answer = next((text for key in RESPONSES if (text := _text(row.get(key))) and key != name), None)
    said = [user(_instruction(row, name)), *([] if answer is None else [assistant(answer)])]
    return [*_history(row.get("history")), *said]


def _instruction(row: Mapping[str, Any], name: str) -> str:
    """The instruction, and on the next line what it is to be done with, as Alpaca's two fields are read."""
    text = _text(row.get(name)) or ""
    beside = _text(row.get("input")) if name == "instruction" else None
    return f"{text.strip()}\n{beside.strip()}" if beside else text


def _history(value: Any) -> list[Message]:
    messages: list[Message] = []
    for pair in value or ():
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(_text(text) for text in pair):
            raise UnfitError("a history that is no list of question and answer")
        messages += [user(pair[0]), assistant(pair[1])]
    return messages


def _prompt(row: Mapping[str, Any]) -> list[Message] | None:
    held = row.get("input")
    if isinstance(held, Mapping) and held.get("messages") is not None:  # OpenAI's form of preferences
        return _messages(held["messages"])
    prompt = row.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        return _messages(prompt)
    if isinstance(prompt, str) and prompt.strip():
        return _written_out(prompt) or [user(prompt)]
    talk = _talk(row)
    if talk is not None:
        return talk
    name = next((name for name in INSTRUCTIONS if _text(row.get(name))), None)
    return None if name is None else [*_history(row.get("history")), user(_instruction(row, name))]


def _answer(row: Mapping[str, Any], names: Sequence[str]) -> list[Message]:
    value = next((row[name] for name in names if row.get(name) is not None), None)
    if isinstance(value, str):
        return _written_out(value) or [assistant(value)]
    messages = None if value is None else _messages(value)
    if not messages:
        raise UnfitError("no two answers")
    return messages


def _written_out(text: str) -> list[Message] | None:
    """The messages in a text that is a conversation written as JSON; None for any other text, be it JSON."""
    if not text.lstrip().startswith("[{"):
        return None
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return None
    named = all(isinstance(entry, Mapping) and {*SPEAKERS} & {*entry} for entry in entries)
    return _messages(entries) if named else None


def _looks_like_json(text: Any) -> bool:
    return isinstance(text, str) and text.lstrip().startswith(("[", "{"))


def _common(one: list[Message], other: list[Message]) -> list[Message]:
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    if shared in {0, len(one), len(other)}:
        raise UnfitError("no prompt that both answers go on from")
    return one[:shared]


def _after(prompt: list[Message], answer: list[Message]) -> list[Message]:
    return answer[len(prompt) :] if answer[: len(prompt)] == prompt else answer


def _with_system(messages: list[Message], row: Mapping[str, Any]) -> list[Message]:
    system = _text(row.get("system"))
    if system is None or (messages and messages[0]["role"] == "system"):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _text(value: Any) -> str | None:
    """The text of a column; None where it has none. A number is one: all answers of a file may be numbers."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value.strip() else None


def _messages(value: Any) -> list[Message] | None:
    """The messages of a conversation; None where the value is none. Raises UnfitError."""
    if _looks_like_json(value):  # such as a column whose rows have no type in common
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    turns = turns_of(value)
    if turns is None:
        return None
    if isinstance(value, list | tuple):
        if len(turns) != sum(entry is not None for entry in value):
            raise UnfitError("an entry that is no message")
        for entry in value:
            _refuse_more_than_text(entry)
    messages: list[Message] = []
    for turn in turns:
        if turn.role is None:
            raise UnfitError("a speaker that is not known")
        if turn.role == "tool":
            raise UnfitError("a message of a tool, which is kept by no format here")
        if turn.text is None or not turn.text.strip():
            raise UnfitError("a message without text")
        messages.append({"role": turn.role, "content": turn.text})
    return messages


def _refuse_more_than_text(entry: Any) -> None:
    if not isinstance(entry, Mapping):
        return
    if any(entry.get(name) for name in _TOOLS):
        raise UnfitError("a call of a tool, which is kept by no format here")
    for name, content in entry.items():
        if str(name).lower() in CONTENTS and isinstance(content, list):
            for part in content:
                if isinstance(part, Mapping) and not isinstance(part.get("text"), str):
                    raise UnfitError("a part that is no text, such as an image")


def _check(messages: list[Message]) -> None:
    """Raise UnfitError unless the user and the assistant take turns, after one system message at most."""
    talk = messages[1:] if messages and messages[0]["role"] == "system" else messages
    if not talk:
        raise UnfitError("no message of the user")
    if any(message["role"] == "system" for message in talk):
        raise UnfitError("a system message after the first")
    if talk[0]["role"] != "user":
        raise UnfitError("a conversation that the assistant begins")
    if any(one["role"] == other["role"] for one, other in pairwise(talk)):
        raise UnfitError("two messages of one speaker in a row")
