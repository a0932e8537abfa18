"""The section `respond`: how instructions are answered."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from magpie.recipe.base import Role, Section
from magpie.recipe.problems import nearest
from magpie.recipe.steer import SteerText


class Respond(Section):
    """The generator answers each instruction."""

    model: Role = "generator"
    """The role that writes the responses."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature. 0 always takes the most likely token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample only from the most likely tokens, whose probabilities add up to this. 1 keeps all tokens."""
    max_tokens: int = Field(default=4096, ge=1)
    """The most tokens one response may have."""
    system_prompt: str | None = None
    """System prompt for the response. null keeps the default of the chat template, if it has one.

    `{persona}` stands for the value of the variable `persona` that the row was steered by, `{{persona}}` for the
    braces.
    """
    keep_system_prompt: bool = False
    """Put the system prompt into the dataset: as the column `response_system_prompt`, and first of the `messages`."""
    retry_cut: int | None = Field(default=None, ge=1)
    """Ask once more, with up to this many tokens, where `max_tokens` cut a response. null keeps the cut ones."""
    stop_repetition: bool | None = None
    """End a response that repeats itself without end. null does so if the engine can."""
    rows: Literal["kept", "all"] = "kept"
    """`kept` skips rows that the filter is sure to drop. `all` answers them too, for the unfiltered dataset."""

    @model_validator(mode="after")
    def _check_settings(self) -> Respond:
        if self.retry_cut is not None and self.retry_cut <= self.max_tokens:
            raise ValueError("`retry_cut` must be more than `max_tokens`, or nothing is gained by it")
        if self.keep_system_prompt and not self.system_prompt:
            raise ValueError("`keep_system_prompt` keeps `system_prompt`, which is not there; write one")
        return self

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables of steering that the system prompt contains, in alphabetical order."""
        return tuple(sorted(self._template.slots)) if self.system_prompt else ()

    def filled(self, values: dict[str, str]) -> str | None:
        """The system prompt of a row, whose variables have these values."""
        # A text without variables is taken as it stands, braces and all.
        return self._template.filled(values) if self.variables else self.system_prompt

    @property
    def _template(self) -> SteerText:
        return SteerText(id="respond.system_prompt", text=self.system_prompt or "-")

    def check(self, recipe: Any) -> None:
        """Every variable of the system prompt has a value in every row."""
        for name in self.variables:
            known = {} if recipe.steer is None else recipe.steer.variables
            if name not in known:
                close = nearest(name, known)
                advice = f"write `{{{close}}}`" if close else "add it to `steer.variables`"
                raise ValueError(
                    f"`respond.system_prompt` holds `{{{name}}}`, which is no variable of `steer`; {advice}, "
                    "or take it out"
                )
            if recipe.steer.unsteered:
                raise ValueError(
                    f"`respond.system_prompt` holds `{{{name}}}`, which the rows of `steer.unsteered` do not have; "
                    "leave one of the two out"
                )
            without = [prompt.id for prompt in recipe.steer.prompts if name not in prompt.slots]
            if without:
                raise ValueError(
                    f"`respond.system_prompt` holds `{{{name}}}`, which rows steered by the prompt {without[0]!r} do "
                    f"not have; put `{{{name}}}` into that prompt too, or take it out"
                )
