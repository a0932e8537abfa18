"""The section `instances` of `method: self-instruct`: examples of each task, as inputs and outputs."""

from __future__ import annotations

from pydantic import Field

from magpie.recipe.base import Role, Section, Text
from magpie.recipe.bootstrap import Speech


class Instances(Section):
    """A model writes examples of each task: the output first where it is classification, else the input first.

    The settings are those of the paper's code, which allows 300 tokens where any task of a batch is classification.
    """

    model: Role = "generator"
    """The role that writes them."""
    speech: Speech = "plain"
    """`plain` gives the model a page of tasks with examples to go on with. `chat` puts it into its chat format."""
    examples: Text | None = None
    """A file with the tasks of that page, in the form of the seeds. null are those that ship."""
    input_first_heading: Text | None = None
    """The text above the page where inputs come first. null is our own."""
    output_first_heading: Text | None = None
    """The text above it where outputs do. null is our own."""
    most: int = Field(default=5, ge=1)
    """How many instances one task may have."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature. 0 always takes the most likely token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample only from the most likely tokens, whose probabilities add up to this. 1 keeps all tokens."""
    presence_penalty: float = Field(default=1.5, ge=-2, le=2)
    """Taken from the logit of every token that the text has already. 0 is off."""
    max_tokens: int = Field(default=350, ge=1)
    """The most tokens that are written for one task."""
    stop_repetition: bool | None = None
    """End a text that repeats itself without end. null does so if the engine can."""
