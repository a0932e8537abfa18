"""The section `refine` of `method: self-instruct`: an aligned model rewrites what a base model wrote."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from magpie.recipe.base import Role, RoleName, Section


class Refine(Section):
    """An aligned model rewrites each task with its instances (BARE, arXiv 2502.01697): a base model's texts differ more
    from one another, and an aligned model's are better. What the base model wrote stays beside it.
    """

    model: Annotated[Role, RoleName("add the aligned model that rewrites")] = "refiner"
    """The role that rewrites, in its chat format."""
    temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature; 0.7 is that of BARE's code. 0 always takes the most likely token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample only from the most likely tokens, whose probabilities add up to this. 1 keeps all tokens."""
    max_tokens: int = Field(default=1024, ge=64)
    """The most tokens that a task and its instances may have. One that is cut is out."""
    stop_repetition: bool | None = None
    """End a text that repeats itself without end. null does so if the engine can."""
