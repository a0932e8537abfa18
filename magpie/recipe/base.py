"""What every piece of a recipe, a filter or a chat template is: written by a person, validated, and then as it is."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Share = Annotated[float, Field(gt=0)]
"""How much of the rows, beside the other shares of a list. They need not add up to 1."""

Text = Annotated[str, Field(min_length=1)]


class Part(BaseModel):
    """A piece of a recipe: unknown keys are refused and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name].annotation if info.field_name else None
        if isinstance(value, bool) and annotation in {int, float, int | None}:
            raise ValueError("must be a number")
        return value
