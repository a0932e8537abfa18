"""The section `clean`: what is removed from an instruction, and which instructions are rejected."""

from __future__ import annotations

from pydantic import Field

from magpie.recipe.base import Section, Text


class Clean(Section):
    """Removes what is not part of the user's message, such as the label "Question:", and rejects what is no message."""

    min_length: int = Field(default=8, ge=0)
    """Reject shorter instructions. In characters."""
    max_length: int = Field(default=8192, ge=1)
    """Reject longer instructions. In characters."""
    prefixes: tuple[Text, ...] = ()
    """Texts to remove from the beginning of an instruction, in upper or lower case.

    Labels such as "Question:" are always removed.
    """
    cut_at: tuple[Text, ...] = ()
    """Remove everything from the first of these texts on, before the instruction is checked.

    For example "## Step 1": in the published multi-turn set of Llama 3.1, the model writes its own answer from there.
    """
