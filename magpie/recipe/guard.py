"""The section `guard`: whether texts are safe."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from magpie.recipe.base import Role, Section

GuardSubject = Literal["instruction", "response", "chosen"]


class Guard(Section):
    """A model such as Llama Guard judges whether texts are safe. In a conversation, only the first turn is judged."""

    model: Role = "guard"
    """The role that judges."""
    of: tuple[GuardSubject, ...] = Field(default=("instruction", "response"), min_length=1)
    """What is judged: the instruction, the response to it, or the chosen answer of a preference pair."""
    early: bool = False
    """Judge the instruction before it is answered: a rule on `instruction_guard` then saves the answers to unsafe ones.

    The guard is loaded once more for it, between the judge and the generator.
    """
    max_tokens: int = Field(default=32, ge=4)
    """The most tokens one verdict may have: one word and, on a second line, the categories."""

    @field_validator("of")
    @classmethod
    def _refuse_doubles(cls, of: tuple[GuardSubject, ...]) -> tuple[GuardSubject, ...]:
        if len(set(of)) < len(of):
            raise ValueError("must name each of `instruction`, `response` and `chosen` at most once")
        return of

    def check(self, recipe: Any) -> None:
        """What is judged must be written by another section."""
        if self.early and "instruction" not in self.of:
            raise ValueError(
                "`guard.early` is about the instruction, which `guard.of` does not name; add it there"
            )
        if "response" in self.of and not recipe.has_responses:
            raise ValueError("`guard.of` names the response and `respond` is off; use `of: [instruction]`")
        if "chosen" in self.of and recipe.prefer is None:
            raise ValueError(
                "`guard.of` names the chosen answer and `prefer` is off; leave `chosen` out of it"
            )
