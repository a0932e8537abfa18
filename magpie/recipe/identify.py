"""The section `identify` of `method: self-instruct`: which tasks are classification."""

from __future__ import annotations

from pydantic import Field

from magpie.recipe.base import Role, Section, Text
from magpie.recipe.bootstrap import Speech


class Identify(Section):
    """A model says of each task whether it is classification: yes or no, and nothing else. null takes none for that."""

    model: Role = "generator"
    """The role that is asked."""
    speech: Speech = "plain"
    """`plain` gives the model a page of answered questions to go on with. `chat` puts it into its chat format."""
    heading: Text | None = None
    """The text above the page. null is our own."""
    yes_shots: int = Field(default=12, ge=0)
    """How many seeds that are classification the page shows."""
    no_shots: int = Field(default=19, ge=0)
    """How many that are not."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature. 0 always takes the more likely answer."""
