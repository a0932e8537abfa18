"""Who says what in a record: its questions, and the first answer, whatever the record calls them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from magpie.text import folded

Role = Literal["user", "assistant", "system", "tool"]

_WORDS: dict[Role, str] = {
    "user": "user human prompter customer student questioner question instruction q",
    "assistant": "assistant gpt bot model ai chatbot chatgpt answer response agent output a",
    "system": "system developer context",
    "tool": "tool function observation function_call function_response tool_call tool_calls tool_response ipython "
    "environment",
}
ROLES: dict[str, Role] = {word: role for role, words in _WORDS.items() for word in words.split()}
"""What datasets call the speakers, in lower case."""

SPEAKERS = ("role", "from", "speaker", "author")
CONTENTS = ("content", "value", "text", "message", "utterance", "parts")
"""The fields of a message: who speaks, and the text."""

CONVERSATIONS = ("messages", "conversations", "conversation", "turns", "dialog", "dialogue", "chat")
"""Columns that hold conversations."""

TEXTS = ("instruction", "prompt", "question", "text", "input", "query", "problem")
ANSWERS = ("response", "output", "completion", "answer", "chosen")
"""Columns that hold a question, or its answer, as a text."""

COLUMNS = ("instruction", "messages", "conversations", "conversation", "prompt", "question", "text", "input", "turns",
           "query", "problem", "dialog", "dialogue", "chat")  # fmt: skip
"""Where an instruction is looked for, in this order."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A message: who says it, and what. `role` is None where its name is not known, `text` where it holds no text."""

    role: Role | None
    text: str | None


def role_of(name: Any) -> Role | None:
    """The role of a speaker of this name: in any case, with a colon or without; None where it is not known."""
    if isinstance(name, Mapping):  # {"role": "user"}, as in exports of chats
        name = _field(name, SPEAKERS)
    return ROLES.get(folded(name).strip(" :*#<|>_")) if isinstance(name, str) else None


def text_of(content: Any) -> str | None:
    """The text of a message: itself, or its parts that are texts; None where it has none."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return next(
            (text for name in ("text", "content", "value", "parts") if (text := text_of(content.get(name)))),
            None,
        )
    if isinstance(content, list | tuple):
        texts = [text for part in content if (text := text_of(part))]
        return "\n".join(texts) or None
    return None


def turns_of(value: Any) -> list[Turn] | None:
    """The messages of a conversation; None where the value is none.

    It is a list of messages, an object that holds one, JSON text of either, or a list of texts, which are all the
    user's. A message is an object, or a pair of role and text.
    """
    if isinstance(value, str):
        value = _json_of(value)
    if isinstance(value, Mapping):
        value = _list_in(value)
    if not isinstance(value, list | tuple):
        return None
    if value and all(isinstance(entry, str) for entry in value):
        return [Turn("user", entry) for entry in value]
    turns = [_turn(entry) for entry in value if entry is not None]
    return [turn for turn in turns if turn is not None] if any(turn is not None for turn in turns) else None


def questions_of(value: Any) -> list[str]:
    """The texts of the user in a value: the text itself, or each message of the user in a conversation."""
    if isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
        turns: list[Turn] | None = [Turn("user", value)]
    else:
        turns = turns_of(value)
        if turns is None and isinstance(value, str):
            turns = [Turn("user", value)]
    found = (turn.text.strip() for turn in turns or () if turn.role == "user" and turn.text)
    return [text for text in found if text]


def exchange_of(value: Any) -> tuple[str | None, str | None, bool]:
    """The first question, what the assistant answers to it, and whether the assistant spoke before any question.

    Questions in a row are one, joined by a line end. What system and tools say is passed over.
    """
    question: list[str] = []
    greeted = False
    for turn in turns_of(value) or ():
        if turn.text is None or not turn.text.strip() or turn.role in {"system", "tool", None}:
            continue
        if turn.role == "user":
            question.append(turn.text)
        elif question:
            return "\n".join(question), turn.text, greeted
        else:
            greeted = True
    return "\n".join(question) or None, None, greeted


def written_names(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The columns of a row by their names in lower case; where two differ in case alone, the first."""
    names: dict[str, Any] = {}
    for name in row:
        names.setdefault(folded(str(name)).strip(), name)
    return names


def _turn(entry: Any) -> Turn | None:
    if isinstance(entry, list | tuple):
        # A map of Arrow is a list of pairs; some sets write a message as a pair of role and text.
        if entry and all(isinstance(pair, tuple) and len(pair) == 2 for pair in entry):
            entry = dict(entry)
        elif len(entry) == 2 and role_of(entry[0]) is not None:
            return Turn(role_of(entry[0]), text_of(entry[1]))
    if not isinstance(entry, Mapping):
        return None
    content = _field(entry, CONTENTS)
    if content is None and not any(folded(str(name)) in CONTENTS for name in entry):
        # {"human": "Why?"}: the name of the speaker is the field
        return next(
            (Turn(role, text_of(held)) for name, held in entry.items() if (role := role_of(name))), None
        )
    return Turn(role_of(_field(entry, SPEAKERS)), text_of(content))


def _field(entry: Mapping[Any, Any], names: tuple[str, ...]) -> Any:
    """The first of the fields that holds something, in any case."""
    held = {folded(str(name)): value for name, value in entry.items()}
    return next((held[name] for name in names if held.get(name) not in (None, "", [])), None)


def _list_in(value: Mapping[Any, Any]) -> Any:
    """The messages in an object: below a key such as `messages`, or in columns, as `datasets` may store them."""
    held = {folded(str(name)): entry for name, entry in value.items()}
    for name in CONVERSATIONS:
        if isinstance(held.get(name), list | tuple):
            return held[name]
    roles, contents = _field(value, SPEAKERS), _field(value, CONTENTS)
    if isinstance(roles, list | tuple) and isinstance(contents, list | tuple) and len(roles) == len(contents):
        return list(zip(roles, contents, strict=True))
    return [value]


def _json_of(text: str) -> Any:
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
