"""The section `embed`: vectors of the instructions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from magpie.recipe.base import Role, Section, ShapesNoRows


class Embed(Section):
    """Turns each instruction into a vector of length 1. `dedup` and `decontaminate.distance` need these vectors."""

    model: Role = "embedder"
    """The role that makes the vectors."""
    batch_size: Annotated[int, ShapesNoRows()] = Field(default=128, ge=1)
    """How many instructions go through the model at once."""
