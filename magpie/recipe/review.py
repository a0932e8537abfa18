"""The section `review` of `method: self-instruct`: a judge answers the questions of the paper's review."""

from __future__ import annotations

from pydantic import Field

from magpie.recipe.base import Role, Section


class Review(Section):
    """A judge says of each task and its first instance whether the task is valid, the input fits and the output is
    right: what an expert said of 200 tasks in the paper. Nothing is rejected; rules of a filter may read the answers.
    """

    model: Role = "judge"
    """The role that judges."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Which share of the rows is reviewed; which of them, the run's seed decides."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature. 0 always takes the most likely token."""
    max_text_length: int = Field(default=200, ge=0)
    """The most characters of the reason that the judge gives before its answers. 0 asks for no reason."""
    max_tokens: int = Field(default=512, ge=48)
    """The most tokens of its answer."""
