"""The conversation of each row as messages, whatever the dataset calls it: our own datasets have it as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from magpie.data.messages import (
    ASSISTANT_ROLES,
    MESSAGES,
    SHAREGPT_ROLES,
    USER_ROLES,
    Message,
    assistant,
    user,
)
from magpie.data.sources import source_of
from magpie.errors import RunError

COLUMNS = ("messages", "conversations", "conversation")
"""Where a conversation is looked for, in this order."""

_ROLES = {
    **dict.fromkeys(USER_ROLES, "user"),
    **dict.fromkeys(ASSISTANT_ROLES, "assistant"),
    "system": "system",
}


def conversation_column(schema: pa.Schema) -> str | None:
    """The column that holds conversations; None where they are made of instruction and response.

    Raises RunError where there is nothing of the kind.
    """
    for name in COLUMNS:
        kind = schema.field(name).type if name in schema.names else None
        if kind is not None and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            return name
    if source_of("instruction", schema) is None:
        raise RunError(
            f"the dataset has no conversations: none of {', '.join(COLUMNS)} is there, and no instruction; it has "
            f"{', '.join(schema.names) or 'no column'}"
        )
    return None


def as_messages(rows: pa.Table, name: str | None) -> Any:
    """The conversations of rows, from the column of this name or from instruction and response, as messages."""
    if name is not None and rows[name].type == MESSAGES and not rows[name].null_count:
        return rows[name]
    held = [None] * rows.num_rows if name is None else rows[name].to_pylist(maps_as_pydicts="lossy")
    texts = [_texts(rows, column) for column in ("instruction", "response")]
    return pa.array(
        [
            # Datasets are put together: a row may have its texts where others have a conversation.
            _messages(turns, name or "") if turns is not None else _pair(instruction, response)
            for turns, instruction, response in zip(held, *texts, strict=True)
        ],
        MESSAGES,
    )


def _pair(instruction: str | None, response: str | None) -> list[Message] | None:
    if instruction is None:
        return None
    return [user(instruction), *([] if response is None else [assistant(response)])]


def _texts(rows: pa.Table, column: str) -> list[str | None]:
    source = source_of(column, rows.schema)
    if source is None:
        return [None] * rows.num_rows
    values = source.values(lambda name: rows[name].combine_chunks()).to_pylist()
    return [_text_of(value) for value in values]


def _text_of(value: Any) -> str | None:
    # What a row has under the name of a text may be anything; a number is one, and a truth value is none.
    is_text = isinstance(value, str | int | float) and not isinstance(value, bool)
    return str(value) if is_text else None


def _messages(turns: Sequence[Any], column: str) -> list[Message]:
    return [_message(turn, column) for turn in turns]


def _message(turn: Any, column: str) -> Message:
    """One turn, with its role and text under the names that messages have."""
    if isinstance(turn, dict):
        role = turn.get("role", turn.get("from"))
        text = _text(turn.get("content", turn.get("value")))
        if isinstance(role, str) and isinstance(text, str):
            return {"role": _ROLES.get(role.lower(), role.lower()), "content": text}
    raise RunError(
        f"the column {column!r} holds a turn that is no role with a text ({str(turn)[:80]!r}); "
        "give a dataset of conversations"
    )


def _text(content: Any) -> Any:
    """The text of a content, which may be a list of parts; as it is where it is something else."""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        texts = [part.get("text") for part in content]
        return "".join(texts) if all(isinstance(text, str) for text in texts) else content
    return content


def as_sharegpt(messages: Any) -> list[list[dict[str, str]] | None]:
    """Messages in ShareGPT's form."""
    return [
        None
        if turns is None
        else [
            {"from": SHAREGPT_ROLES.get(turn["role"], turn["role"]), "value": turn["content"]}
            for turn in turns
        ]
        for turns in messages.to_pylist()
    ]
