"""The section `prefer`: pairs for preference training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from magpie.recipe.base import Role, RoleName, Section


class Prefer(Section):
    """Writes several answers to each instruction; a reward model chooses the best and the worst as a preference pair.

    Five answers at a temperature of 0.8 are the published setting.
    """

    model: Role = "generator"
    """The role that writes the answers."""
    reward: Annotated[Role, RoleName("add the reward model that chooses among the answers")] = "reward"
    """The role that scores the answers."""
    responses: int = Field(default=5, ge=2)
    """How many answers are written to each instruction."""
    temperature: float = Field(default=0.8, gt=0)
    """Sampling temperature."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample only from the most likely tokens, whose probabilities add up to this. 1 keeps all tokens."""
    max_tokens: int = Field(default=4096, ge=1)
    """The most tokens one answer may have."""
    system_prompt: str | None = None
    """System prompt for the answers. null keeps the default of the chat template, if it has one."""
    stop_repetition: bool | None = None
    """End an answer that repeats itself without end. null does so if the engine can."""
    margin: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Reject a row unless its best reward is more than this above its worst. 0 rejects only exact ties."""
