"""The shapes that trainers read beside the common ones: each holds what its trainer reads, and no other column."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from magpie.data.conversations import as_sharegpt
from magpie.data.dataset import PAIR
from magpie.data.magpie_form import CONVERSATIONS
from magpie.data.messages import MESSAGES, SHAREGPT_ROLES

Talks = Callable[[pa.Table], Any]
"""The conversations of some rows, as messages."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A format, for one dataset.

    `own` are its columns, which `make` makes and which are always written. `hides` are columns that would be read as
    something else beside them: they are written only where they are asked for. With `alone`, so are all others.
    `derived` are columns that it needs and that the files do not have. `unfit` says why a conversation, or the
    pair of a row, cannot be in it.
    """

    own: tuple[str, ...]
    make: Callable[[pa.Table], dict[str, Any]]
    hides: frozenset[str] = frozenset()
    alone: bool = False
    own_first: bool = False
    derived: tuple[str, ...] = ()
    unfit: Callable[[Sequence[dict[str, str]], Mapping[str, Any]], str | None] | None = None


def of_trainer(format: str, messages: Talks, *, pairs: bool) -> Shape:
    """The shape of `openai`, `llama-factory` or `axolotl`."""
    if pairs and format != "openai":
        return pairs_of_trainer("conversations" if format == "llama-factory" else "messages")
    alike = talks(messages, sharegpt=format == "llama-factory")
    return replace(alike, alone=True, own_first=True, unfit=unanswered)


def talks(messages: Talks, *, sharegpt: bool) -> Shape:
    """The conversations in one column: `messages`, or `conversations` in ShareGPT's form."""
    if not sharegpt:
        return Shape(("messages",), lambda rows: {"messages": messages(rows)})

    def make(rows: pa.Table) -> dict[str, Any]:
        return {"conversations": pa.array(as_sharegpt(messages(rows)), CONVERSATIONS)}

    return Shape(("conversations",), make)


def as_text(messages: Talks, write: Callable[[Any], str]) -> Shape:
    """`text`: each conversation as `write` has it."""

    def make(rows: pa.Table) -> dict[str, Any]:
        texts = [write(talk) if talk else None for talk in messages(rows).to_pylist()]
        return {"text": pa.array(texts, pa.string())}

    return Shape(("text",), make, alone=True, own_first=True, unfit=nothing_said)


def unanswered(talk: Sequence[dict[str, str]], _: Mapping[str, Any]) -> str | None:
    """Why a conversation is none of questions that are all answered; None where it is."""
    turns = talk[1:] if talk and talk[0]["role"] == "system" else talk
    if not turns or [turn["role"] for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        return "a message without an answer, which this format cannot hold"
    return None


def nothing_said(talk: Sequence[dict[str, str]], _: Mapping[str, Any]) -> str | None:
    """Why a conversation has no text; None where it has one."""
    return None if talk else "no conversation"


def one_turn_reason(talk: Sequence[dict[str, str]], row: Mapping[str, Any]) -> str | None:
    """Why a conversation is not one question with its answer; None where it is."""
    why = unanswered(talk, row)
    if why is None and talk[0]["role"] == "system":
        return "a system message, which this format cannot hold"
    return "more than one turn, which this format cannot hold" if why is None and len(talk) > 2 else why


def one_turn(messages: Talks, parts: Callable[[pa.Table, Sequence[str]], tuple[Any, Any]]) -> Shape:
    """`instruction`, `input` and `output`: one question with its answer. `parts` takes a message apart."""

    def make(rows: pa.Table) -> dict[str, Any]:
        talks = [talk or [] for talk in messages(rows).to_pylist()]
        texts = [[turn["content"] for turn in talk[:2]] if len(talk) > 1 else ["", ""] for talk in talks]
        instruction, input = parts(rows, [one for one, _ in texts])
        return {
            "instruction": instruction,
            "input": input,
            "output": pa.array([other for _, other in texts], pa.string()),
        }

    return Shape(("instruction", "input", "output"), make, alone=True, own_first=True, unfit=one_turn_reason)


def pairs_of_trainer(name: str) -> Shape:
    """Pairs as LLaMA-Factory (`conversations`) and axolotl (`messages`) read them: each answer is one message."""
    sharegpt = name == "conversations"
    kind = CONVERSATIONS if sharegpt else MESSAGES

    def said(turn: dict[str, str]) -> dict[str, str]:
        if not sharegpt:
            return turn
        return {"from": SHAREGPT_ROLES.get(turn["role"], turn["role"]), "value": turn["content"]}

    def make(rows: pa.Table) -> dict[str, Any]:
        prompts, *answers = (rows[column].to_pylist() for column in PAIR)
        columns = {name: pa.array([[said(turn) for turn in prompt or ()] for prompt in prompts], kind)}
        for side, turns in zip(PAIR[1:], answers, strict=True):
            columns[side] = pa.array([said(talk[0]) if talk else None for talk in turns], kind.value_type)
        return columns

    def unfit(_: Sequence[dict[str, str]], row: Mapping[str, Any]) -> str | None:
        if not all(row.get(side) for side in PAIR):
            return "no pair"
        return "answers of more than one message" if max(len(row[side]) for side in PAIR[1:]) > 1 else None

    return Shape((name, *PAIR[1:]), make, alone=True, own_first=True, unfit=unfit)
