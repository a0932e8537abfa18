"""Steering: what a recipe says of the user that the generator is about to write as."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from math import prod
from typing import Literal

from pydantic import Field, field_validator, model_validator

from magpie.recipe.base import Part, Share, Text
from magpie.recipe.languages import LANGUAGES

_SLOT = re.compile(r"\{([A-Za-z]\w*)\}")
_BRACES = re.compile(r"\{\{([A-Za-z]\w*)\}\}")
_MOST_CELLS = 1_000_000


class SteerText(Part):
    """A steering prompt, or one value of a variable: its name in `steer_id`, its text, and its share of the rows.

    In a prompt, `{domain}` stands for the text of a value of the variable `domain`, and `{{domain}}` for itself.
    """

    id: str
    text: Text
    share: Share = 1.0

    @field_validator("id")
    @classmethod
    def _fits_a_steer_id(cls, id: str) -> str:
        if not re.fullmatch(r"[^\s;=]+", id):
            raise ValueError("must be a name without spaces, `;` and `=`")
        return id

    @property
    def slots(self) -> frozenset[str]:
        """The names of variables that a prompt holds."""
        return frozenset(_SLOT.findall(_BRACES.sub("", self.text)))

    def filled(self, values: Mapping[str, str]) -> str:
        """The prompt with the text of a value in the place of each variable."""
        pieces = _BRACES.split(self.text)  # every other piece was inside double braces
        return "".join(
            f"{{{piece}}}" if at % 2 else _SLOT.sub(lambda slot: values[slot[1]], piece)
            for at, piece in enumerate(pieces)
        )


class Steer(Part):
    """Says what kind of user the generator is about to write as: system prompts before the user's header.

    No other step sees them: a response is written to the instruction alone. A prompt has its share of the rows whatever
    variables it names. `combine: cross` pairs each prompt with every value of its variables, spread evenly over the
    rows by position; `sample` draws a prompt and each of its variables by seed, row by row.
    """

    prompts: tuple[SteerText, ...] = Field(min_length=1)
    variables: dict[str, tuple[SteerText, ...]] = Field(default_factory=dict)
    combine: Literal["cross", "sample"] = "cross"

    @model_validator(mode="after")
    def _hangs_together(self) -> Steer:
        for name, values in self.variables.items():
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"the variable {name!r} must be named in lower-case letters, digits and `_`")
            if not values:
                raise ValueError(f"the variable {name!r} has no values; give it some, or take it out")
            _refuse_doubled(values, f"the values of {name!r}")
        _refuse_doubled(self.prompts, "the prompts")
        for prompt in self.prompts:
            for name in sorted(prompt.slots - self.variables.keys()):
                close = get_close_matches(name, self.variables, n=1, cutoff=0.5)
                meant = f"write `{{{close[0]}}}`" if close else "add it to `variables`"
                raise ValueError(
                    f"the prompt {prompt.id!r} holds `{{{name}}}`, which is no variable; {meant}, "
                    f"or `{{{{{name}}}}}` for the braces themselves"
                )
        unused = [name for name in self.variables if not any(name in one.slots for one in self.prompts)]
        if unused:
            raise ValueError(
                f"no prompt holds `{{{unused[0]}}}`; put it into one, or take {unused[0]!r} out of `variables`"
            )
        cells = sum(
            prod(len(self.variables[name]) for name in self.variables_of(one)) for one in self.prompts
        )
        if self.combine == "cross" and cells > _MOST_CELLS:
            raise ValueError(f"prompts and values make {cells:,} pairings; use `combine: sample` for so many")
        return self

    @property
    def languages(self) -> tuple[str, ...]:
        """The ids of the variable `language`; none where there is no such variable."""
        return tuple(value.id for value in self.variables.get("language", ()))

    @property
    def names_languages(self) -> bool:
        """Whether the variable `language` is there and its ids are languages that can be told apart."""
        return bool(self.languages) and LANGUAGES.issuperset(self.languages)

    def variables_of(self, prompt: SteerText) -> tuple[str, ...]:
        """The variables that the prompt holds, in the order in which the recipe gives them."""
        return tuple(name for name in self.variables if name in prompt.slots)


def _refuse_doubled(texts: tuple[SteerText, ...], what: str) -> None:
    seen: set[str] = set()
    for text in texts:
        if text.id in seen:
            raise ValueError(f"the id {text.id!r} is given to two of {what}; give each an `id` of its own")
        seen.add(text.id)
