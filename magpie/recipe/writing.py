"""What a recipe says of writing: the user's messages, the answers to them, and further turns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from magpie.recipe.base import Part, Share


class Draw(Part):
    """One way to sample, and its share of the rows. Shares need not add up to 1."""

    share: Share = 1.0
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0, le=1)


class Instruct(Part):
    """The generator writes the user's message.

    `system_prompt` null keeps what the chat template does by itself (its default system prompt, where it has one).
    `stop_at_newline` ends an instruction at its first newline, as the published sets do.

    `hold_back` are openings that no instruction may begin with: the first token of each is not drawn there (for
    Llama 3.1 "#" and "**", which begin documents and not questions). `first_token_divisor` divides the logits of the
    first token: above 1, openings vary more (1.2 for Qwen2.5-Math in the code of arXiv 2406.08464).
    `stop_repetition` ends a text that repeats itself for good; null does so where the engine can.
    """

    model: str = "generator"
    mix: tuple[Draw, ...] = Field(default=(Draw(),), min_length=1)
    max_tokens: int = Field(default=2048, ge=1)
    stop_at_newline: bool = True
    system_prompt: str | None = None
    hold_back: tuple[str, ...] = ()
    first_token_divisor: float = Field(default=1.0, gt=0)
    stop_repetition: bool | None = None


class Respond(Part):
    """The generator answers. `rows: all` answers rows that the filter will drop, for those who want the raw set.

    `stop_repetition` ends an answer that repeats itself for good; null does so where the engine can.
    """

    model: str = "generator"
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=4096, ge=1)
    system_prompt: str | None = None
    stop_repetition: bool | None = None
    rows: Literal["kept", "all"] = "kept"


class Extend(Part):
    """Further turns. `turns` counts all turns of the conversation, the first included.

    `system_prompt` is used only while the user's message is written. Null tells the model that it is in a conversation
    of many turns, where its family takes a system prompt; "" gives none.
    """

    model: str = "generator"
    turns: int = Field(default=2, ge=2)
    draw: Draw = Draw()
    instruct_max_tokens: int = Field(default=2048, ge=1)
    stop_at_newline: bool = True
    system_prompt: str | None = None
    respond_temperature: float = Field(default=0.0, ge=0)
    respond_max_tokens: int = Field(default=4096, ge=1)
    stop_repetition: bool | None = None
