"""The section `gate`: what a run must look like before more is paid for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from magpie.recipe.base import Section

At = Annotated[float, Field(gt=0, lt=1)]


class Gate(Section):
    """Looks at the instructions early, and before the first response is written, and pauses a run that collapses.

    The measures are those of the report. A bound that is null is not looked at. It changes no row: it may be switched
    on, off and changed while a run is under way.
    """

    at: tuple[At, ...] = (0.01, 0.1)
    """After which shares of the rows to look: whole shards, one at least."""
    before_answers: bool = True
    """Whether to look at all instructions before the first response is written."""
    action: Literal["warn", "pause", "stop"] = "pause"
    """What is done beyond a bound.

    `warn` says so and goes on. `pause` ends the build with exit code 3, and `--go-on` passes what was found. `stop`
    ends it with exit code 1, and the run does not go on unless the bound, or the recipe, is another.
    """
    fewest_rows: int = Field(default=100, ge=10)
    """Of fewer rows that are still in nothing is told; a later look has more."""
    topic: float | None = Field(default=0.4, gt=0, le=1)
    """The most that the largest topic may have of the rows, where it is clearly apart from the others."""
    opening: float | None = Field(default=0.35, gt=0, le=1)
    """The most rows that may begin with the same six words."""
    entropy: float | None = Field(default=0.85, ge=0, le=1)
    """The least entropy of the rows over the steering values, as a share of the most that it could be.

    It is looked at where the recipe steers: rows of a topic that the model cannot write about are missing.
    """
    near_copies: float | None = Field(default=0.3, gt=0, le=1)
    """The most rows that may be near copies of an earlier one: nearer than `dedup.threshold`, or 0.05 without it."""
    cut: float | None = Field(default=0.3, gt=0, le=1)
    """The most instructions that may be cut by length."""
    language: float | None = Field(default=0.3, gt=0, le=1)
    """The most rows that `language` may reject."""

    def check(self, recipe: Any) -> None:
        """There is something to look at."""
        if not self.at and not self.before_answers:
            raise ValueError(
                "`gate` looks at no place; give `at`, or `before_answers: true`, or leave `gate` out"
            )
