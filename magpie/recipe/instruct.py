"""The section `instruct`: how the user's messages are written."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from magpie.recipe.base import Part, Role, Section, Share


class Draw(Part):
    """Sampling settings, and the share of the rows that are sampled with them."""

    share: Share = 1.0
    """How many of the rows, relative to the other shares of the list. Shares need not add up to 1."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature. 0 always takes the most likely token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample only from the most likely tokens, whose probabilities add up to this. 1 keeps all tokens."""
    top_k: int = Field(default=0, ge=0, le=2**31 - 1)
    """Sample only from this many of the most likely tokens. 0 keeps all tokens."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Leave out tokens less likely than this fraction of the most likely token. 0 keeps all tokens."""


class Instruct(Section):
    """The generator writes the user's message. Its prompt is the pre-query template and nothing else."""

    model: Role = "generator"
    """The role that writes the instructions."""
    mode: Literal["raw", "ask"] = "raw"
    """How instructions come about. `raw` is the method: the pre-query template and nothing else.

    `ask` is another method, for a model that fails at that (`magpie doctor` says so): in its chat format it is asked to
    write a message as a user would. Each row is marked as such in `instruct_mode`, and so is the dataset's card.
    """
    mix: tuple[Draw, ...] = Field(default=(Draw(),), min_length=1)
    """Sampling settings, each for its share of the rows."""
    max_tokens: int = Field(default=2048, ge=1)
    """The most tokens one instruction may have."""
    stop_at_newline: bool = True
    """End an instruction at its first newline, as in the published datasets."""
    system_prompt: str | None = None
    """System prompt before the user's message. null keeps the default of the chat template, if it has one."""
    hold_back: tuple[str, ...] = ()
    """Texts that no instruction may begin with: the first token of each is never sampled as the first token.

    For Llama 3.1, use "#" and "**", which begin documents and not questions.
    """
    first_token_divisor: float = Field(default=1.0, gt=0)
    """The logits of the first token are divided by this. Above 1, instructions begin in more different ways.

    The code of the Magpie paper (arXiv 2406.08464) uses 1.2 for Qwen2.5-Math.
    """
    stop_repetition: bool | None = None
    """End a text that repeats itself without end. null does so if the engine can."""
