"""Finds what may belong to a person: e-mail addresses, phone numbers, and keys, tokens and passwords."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pyarrow as pa

from magpie.recipe import Pii, PiiKind, Recipe
from magpie.steps.base import REJECTED, RowStep, RowWork, Tools, column, live, spread
from magpie.steps.pii.detection import Found, find

__all__ = [
    "KINDS",
    "Found",
    "PiiStep",
    "find",
]

KINDS: tuple[PiiKind, ...] = ("email", "phone", "secret")
"""What is found, in the order in which it is named."""

# The columns that may answer an instruction, in the order in which they are looked at.
_ANSWERS = (
    "response", "reasoning", "later_turns", "later_reasoning", "candidates", "candidate_reasoning", "base_response",
    "task_input", "instances", "unrefined_instances",
)  # fmt: skip

_MEANINGS = {
    "instruction": "Kinds of personal data found in the instruction, such as email; null where none is.",
    "response": "Kinds of personal data found in the answers; null where none is.",
}


@dataclass(frozen=True, slots=True)
class PiiStep(RowStep, RowWork[None]):
    """Adds the kinds that were found in the instruction (`pii`) or in its answers (`response_pii`), or null.

    `place` is which of the two, and `columns` are the columns to search, as the steps before added them. The answers
    are the response, its later turns (with the user's messages), the candidates of a pair and the base model's answer,
    as far as the recipe has them.

    `action: reject` also rejects the row, as "pii: email, phone". `action: redact` replaces the columns: a kind such as
    [EMAIL] stands where something was found, so that no later step and no dataset sees it. Rejected rows keep their
    texts.
    """

    part: Pii
    place: Literal["instruction", "response"]
    columns: tuple[pa.Field, ...]

    section = "pii"

    @classmethod
    def plan_instruction(cls, recipe: Recipe, columns: pa.Schema) -> tuple[PiiStep, ...]:
        """The step that looks at the instruction, where the recipe asks for it."""
        part = recipe.pii
        if part is None or "instruction" not in part.columns:
            return ()
        return (cls(part, "instruction", (columns.field("instruction"),)),)

    @classmethod
    def plan_answers(cls, recipe: Recipe, columns: pa.Schema) -> tuple[PiiStep, ...]:
        """The step that looks at the answers, where there are any and the recipe asks for it."""
        part = recipe.pii
        answers = tuple(columns.field(name) for name in _ANSWERS if name in columns.names)
        if part is None or "response" not in part.columns or not answers:
            return ()
        if "instances" in columns.names:  # the message holds the input that came with the output
            answers = (columns.field("instruction"), *answers)
        if (
            "unrefined_instances" in columns.names
        ):  # the task was written anew behind the look at instructions
            answers = (columns.field("task"), *answers)
        return (cls(part, "response", answers),)

    @property
    def name(self) -> str:
        """`pii` or `response_pii`, which is also the column."""
        return "pii" if self.place == "instruction" else "response_pii"

    @property
    def reads(self) -> tuple[str, ...]:
        """The texts of its place."""
        return tuple(field.name for field in self.columns)

    @property
    def adds(self) -> pa.Schema:
        """What was found; where rows are rejected or redacted, what becomes of them."""
        fields = [column(self.name, pa.list_(pa.string()), _MEANINGS[self.place])]
        if self.part.action == "reject":
            fields.append(REJECTED)
        if self.part.action == "redact":
            fields += self.columns
            if "response" in self.reads:
                fields.append(
                    column(
                        "response_length",
                        pa.int32(),
                        "Characters of the response, as it is redacted.",
                        published="response_length",
                    )
                )
        return pa.schema(fields)

    @property
    def settings(self) -> dict[str, Any]:
        """What is looked for, what is done about it, and in which answers."""
        # The columns depend on other sections of the recipe, so the settings of `pii` alone do not fix the output. The
        # later keys are added only with their columns, so that runs without them keep their fingerprint.
        settings = {
            **self.part.model_dump(mode="json", exclude={"columns"}),
            "extended": "later_turns" in self.reads,
        }
        if "candidates" in self.reads:
            settings |= {"candidates": True, "responded": "response" in self.reads}
        if "instances" in self.reads:
            settings |= {"instances": True}
        if "unrefined_instances" in self.reads:
            settings |= {"refined": True}
        return settings | ({"baselined": True} if "base_response" in self.reads else {})

    @property
    def bytes_per_row(self) -> int:
        return 2

    def bind(self, _: Tools) -> PiiStep:
        return self

    async def run(self, rows: pa.Table, _: None) -> pa.Table:
        """Looks in a thread, so that an engine fed by the same event loop is not kept waiting."""
        return await asyncio.to_thread(self._look, rows)

    def _look(self, rows: pa.Table) -> pa.Table:
        at = live(rows)
        texts: dict[str, list[Any]] = {name: rows[name].to_pylist() for name in self.reads}
        # `kinds` collects what is found in any column of the row; the texts are replaced as they are searched.
        kinds_of_rows: list[list[str] | None] = []
        for row in at:
            kinds: set[str] = set()
            for values in texts.values():
                values[row] = _each_text(values[row], partial(self._redacted, kinds=kinds))
            kinds_of_rows.append([kind for kind in KINDS if kind in kinds] or None)
        reasons = [None if kinds is None else f"{self.name}: {', '.join(kinds)}" for kinds in kinds_of_rows]
        columns: dict[str, list[Any]] = {self.name: kinds_of_rows, REJECTED.name: reasons}
        schema = pa.schema([field for field in self.adds if field.name in columns])
        result = spread(rows, at, columns, schema)
        # The redacted texts are not spread: `spread` gives null to rejected rows, and those keep their texts.
        if self.part.action == "redact":
            if "response" in self.reads:
                texts["response_length"] = [None if text is None else len(text) for text in texts["response"]]
            for name in self.adds.names[len(schema) :]:
                result = result.append_column(name, pa.array(texts[name], self.adds.field(name).type))
        return result

    def _redacted(self, text: str, kinds: set[str]) -> str:
        """The text with placeholders; the kinds that were found are added to `kinds`."""
        # From the end, so that the places of the earlier matches stay right.
        for match in reversed(find(text, self.part)):
            kinds.add(match.kind)
            text = f"{text[: match.start]}[{match.kind.upper()}]{text[match.end :]}"
        return text


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """A text, a list of texts, of messages or of instances, each text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_each_text(item, change) for item in value]
    if isinstance(value, dict):
        return {key: text if key == "role" else _each_text(text, change) for key, text in value.items()}
    return value
