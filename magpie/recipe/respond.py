"""The section `respond`: how instructions are answered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from magpie.recipe.base import Role, Section


class Respond(Section):
    """The generator answers each instruction."""

    model: Role = "generator"
    """The role that writes the responses."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature. 0 always takes the most likely token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample only from the most likely tokens, whose probabilities add up to this. 1 keeps all tokens."""
    max_tokens: int = Field(default=4096, ge=1)
    """The most tokens one response may have."""
    system_prompt: str | None = None
    """System prompt for the response. null keeps the default of the chat template, if it has one."""
    stop_repetition: bool | None = None
    """End a response that repeats itself without end. null does so if the engine can."""
    rows: Literal["kept", "all"] = "kept"
    """`kept` skips rows that the filter is sure to drop. `all` answers them too, for the unfiltered dataset."""
