"""What a recipe says of scoring and of safety: the reward model, preference pairs and the guard."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from magpie.recipe.base import Part

GuardSubject = Literal["instruction", "response", "chosen"]


class Baseline(Part):
    """The base model that the generator was aligned from answers too; it is shown a page of answered questions."""

    model: str = "base"
    temperature: float = Field(default=0.0, ge=0)
    max_tokens: int = Field(default=1024, ge=1)


class Reward(Part):
    """A reward model scores the response to the instruction: any sequence-classification model of one label.

    With `baseline` it scores the base model's answer as well, and `reward_difference` is what the response is above it.
    """

    model: str = "reward"
    baseline: Baseline | None = None


class Prefer(Part):
    """Pairs for preference training: several answers to one instruction, the best of them and the worst by reward.

    `model` writes the answers and `reward` is the role that scores them. Five at a temperature of 0.8 are the published
    setting. A row is out when its best reward is not more than `margin` above its worst: 0 drops exact ties alone.
    `stop_repetition` ends an answer that repeats itself for good; null does so where the engine can.
    """

    model: str = "generator"
    reward: str = "reward"
    responses: int = Field(default=5, ge=2)
    temperature: float = Field(default=0.8, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=4096, ge=1)
    system_prompt: str | None = None
    stop_repetition: bool | None = None
    margin: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class Guard(Part):
    """A Llama-Guard-style model says whether the instruction, and the response to it, are safe.

    `of` may also name `chosen`, the chosen answer of a preference pair. Of a conversation the first turn is judged.
    `max_tokens` is for one verdict: a word, and on a second line the categories.
    """

    model: str = "guard"
    of: tuple[GuardSubject, ...] = Field(default=("instruction", "response"), min_length=1)
    max_tokens: int = Field(default=32, ge=4)

    @field_validator("of")
    @classmethod
    def _each_once(cls, of: tuple[GuardSubject, ...]) -> tuple[GuardSubject, ...]:
        if len(set(of)) < len(of):
            raise ValueError("must name each of `instruction`, `response` and `chosen` once")
        return of
