"""What a recipe says of judging."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from magpie.recipe.base import Part, Text

TagName = Literal["difficulty", "quality", "category"]


class Tag(Part):
    """A judge's view of each instruction: one constrained JSON answer for each of `tags`.

    `max_tokens` is for one answer, and `max_text_length` the characters of each free text in it. An answer that is cut
    before its label is asked for once more, with texts so short that it fits.

    `times` is how often the judge is asked for each, with seeds of their own: its votes are kept, the tag is what most
    of them say. `second_judge` is the role of another model that is asked the same, in columns that begin with
    `second_`. How well the votes and the judges agree is in the run's report. A judge answers without reasoning first,
    whatever its `thinking` is.
    """

    model: str = "judge"
    second_judge: Text | None = None
    tags: tuple[TagName, ...] = Field(default=("difficulty", "quality", "category"), min_length=1)
    temperature: float = Field(default=0.0, ge=0)
    times: int = Field(default=1, ge=1)
    max_tokens: int = Field(default=512, ge=16)
    max_text_length: int = Field(default=400, ge=16)

    @model_validator(mode="after")
    def _can_differ(self) -> Tag:
        if self.times > 1 and self.temperature == 0:
            raise ValueError("`times` asks a judge that says the same each time; set `temperature` above 0")
        return self
