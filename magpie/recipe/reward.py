"""The section `reward`: scores for the responses."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from magpie.recipe.base import Part, Role, RoleName, Section


class Baseline(Part):
    """The base model, from which the generator was aligned, answers too. Its prompt begins with answered questions."""

    model: Annotated[Role, RoleName("add the base model that the generator was aligned from")] = "base"
    """The role of the base model."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature. 0 always takes the most likely token."""
    max_tokens: int = Field(default=1024, ge=1)
    """The most tokens one answer may have."""


class Reward(Section):
    """A reward model scores each response. Any sequence-classification model with one label will do."""

    model: Role = "reward"
    """The role that scores."""
    baseline: Baseline | None = None
    """Score an answer of the base model too; `reward_difference` is the response's score minus that one's."""

    def check(self, recipe: Any) -> None:
        """What is scored is the response."""
        if not recipe.has_responses:
            raise ValueError("`reward` needs `respond`, which is switched off; switch off both or neither")
