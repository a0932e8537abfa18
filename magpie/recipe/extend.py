"""The section `extend`: further turns of a conversation."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from magpie.recipe.base import Role, Section
from magpie.recipe.instruct import Draw


class Extend(Section):
    """The generator continues each conversation: it writes the user's next message, then answers it."""

    model: Role = "generator"
    """The role that writes the further turns."""
    turns: int = Field(default=2, ge=2)
    """How many turns the whole conversation has, the first one included."""
    draw: Draw = Draw()
    """Sampling settings for the user's messages."""
    instruct_max_tokens: int = Field(default=2048, ge=1)
    """The most tokens one message of the user may have."""
    stop_at_newline: bool = True
    """End a message of the user at its first newline."""
    system_prompt: str | None = None
    """System prompt while the user's messages are written; the responses do not get it.

    null tells the model that the conversation has several turns, if its chat template takes a system prompt. An empty
    text ("") gives no system prompt.
    """
    respond_temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature for the responses. 0 always takes the most likely token."""
    respond_max_tokens: int = Field(default=4096, ge=1)
    """The most tokens one response may have."""
    stop_repetition: bool | None = None
    """End a text that repeats itself without end. null does so if the engine can."""

    def check(self, recipe: Any) -> None:
        """Extend continues from the response."""
        if not recipe.has_responses:
            raise ValueError("`extend` needs `respond`, which is switched off; switch off both or neither")
